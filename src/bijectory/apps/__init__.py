"""From a problem to an answer, on the public surface only.

The names are in the stub beside this file; each is fetched when it is first asked for, with what it needs.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
