"""What is measured: attacks on any model, whoever trained it."""

import lazy_loader

# The names are those of __init__.pyi; each is imported when it is first used: an attack does not wait for the Trainer.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
