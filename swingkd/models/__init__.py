"""Models of other people: loaded by name, their heads read, their classes compared."""
