"""PrivateDistillationTrainer, its settings, and the teacher asked once."""

import lazy_loader

# The names are those of __init__.pyi: whoever needs the settings alone does not load the trainer.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
