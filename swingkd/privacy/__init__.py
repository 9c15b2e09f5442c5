"""What is promised: mechanisms whose guarantee holds, and what it is about; never a model's behaviour."""

import lazy_loader

# The names are those of __init__.pyi; each is imported when it is first used: to plan a run takes no torch.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
