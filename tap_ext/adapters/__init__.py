"""TAP within other inference stacks, one file each; none imports the stack it serves.

Each follows its stack's documented contract by shape. ``docs/embedding.md`` says how it is put in.
"""
