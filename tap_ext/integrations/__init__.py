"""How other libraries' objects are entered and left."""
