"""`mirrorha demo`: two nodes and a witness on this machine, a ledger, and a kill -9."""
