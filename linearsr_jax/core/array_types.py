"""Array types used in public signatures.

Axis letters: B batch, H W image rows and columns, h w latent rows and columns,
C channels, N tokens, T condition tokens, D width, K head size. In
`Float[Array, "B N H K"]` H is the number of attention heads. The annotations are for
readers; they cost nothing and are not checked at run time.
"""

from jaxtyping import Array, Bool, Float, Int, Key, PyTree, UInt8

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PyTree", "UInt8"]
