"""Type `python embed_minimal.py`, in another terminal `… lyon`. Then kill the one that counts."""

import sys

import one_machine
import trio

import mirrorha

node = sys.argv[1] if len(sys.argv) > 1 else "paris"
cluster = mirrorha.Cluster(mirrorha.load_toml(one_machine.trial_config(), node=node))
(data,) = cluster.volumes.values()


@cluster.serve
async def serve(why: mirrorha.RoleChange, *, task_status: trio.TaskStatus[None]) -> None:
    print(f"{node} serves: {why.why}", flush=True)
    count = int(await data.read_bytes("count")) if await data.exists("count") else 0
    task_status.started()
    while True:  # on one node at a time; when that node dies, the other goes on where it was
        count += 1
        await data.replace_atomically("count", b"%d" % count)
        print(f"{node}: {count}", flush=True)
        await trio.sleep(0.5)


try:
    trio.run(cluster.run, restrict_keyboard_interrupt_to_checkpoints=True)
except KeyboardInterrupt:
    print(f"{node} ends")
