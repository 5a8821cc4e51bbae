"""What a pure machine does step by step, beside other things: resync and verify are made of it."""
