"""What is known of the privacy of a token; columns of the data, batches and targets all derive from it.

They describe the token *itself*; the loss reads them at the position that predicts it.  One more fact is one more
field here, with 0 as its default, and a value where it is known: `swingkd.data.spans` (tokens), `swingkd.tasks.labels`
(examples, words) or `swingkd.tasks.images`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class TokenFacts(NamedTuple):
    """Facts about tokens (or whole examples), one value a token in each; arrays, tensors, or one token's numbers.

    Args:
        likelihood: that the token is private: in [0, 1], in columns 0 = ordinary ... 255 = surely private.
        group: what the tagger found and where in its span the token stands (`swingkd.targets.population`); 0 nothing
            named.
        shape: what the span's text before the token looks like: two hashes, of its shape ("9-9" for "212-55") and of
            its last character; 0 outside spans.
        span: a hash of the span's text, so that copies of one secret can be counted once; 0 outside spans.
    """

    likelihood: Any
    group: Any = 0
    shape: Any = 0
    span: Any = 0

    def at(self, places: Any) -> TokenFacts:
        """Return the facts about some of the tokens."""
        return TokenFacts(*(values[places] for values in self))

    def spread(self, size: int, places: Any) -> TokenFacts:
        """Return the facts about so many tokens, of which these stand at some places; of the others nothing is known.

        Args:
            size: how many tokens there are.
            places: indices, or a mask [size], of those that are known here; all facts are arrays.
        """
        every = TokenFacts(*(np.zeros(size, values.dtype) for values in self))
        for values, known in zip(every, self, strict=True):
            values[places] = known
        return every


#: How each is kept in a column.
FACT_TYPES = TokenFacts(likelihood=np.uint8, group=np.int32, shape=np.int64, span=np.int64)
