"""Every numeric tolerance of the tests, with the reason for each line."""

from __future__ import annotations

import torch

UNIT_ROUNDOFF = {
    torch.float32: 2.0**-24,  # half a unit in the last of 24 significant bits
    torch.bfloat16: 2.0**-8,  # of 8 bits
    torch.float16: 2.0**-11,  # of 11 bits
    torch.float64: 2.0**-53,  # of 53 bits
}
"""Largest relative error of one rounding to a dtype."""

SMALLEST_STEP = {
    torch.float32: 2.0**-149,  # spacing of subnormals, where roundings are no longer relative
    torch.bfloat16: 2.0**-133,
    torch.float16: 2.0**-24,
    torch.float64: 2.0**-1074,
}

COMBINED = 8
"""Roundings in a sum of S <= 7 products and a base: at most one per operation on a term, 2 S in
all, of which the largest terms meet few. In unit roundoffs of the sum of absolute terms."""

DIVIDED = 4
"""Roundings per plane of stack_update_: one subtraction, one division (two if by a reciprocal),
and one of feature - minus. In unit roundoffs, carried along the recursion."""

SUMMED = 48
"""Error of a float32 inner product over D <= 3073 channels in unit roundoffs of its absolute
terms. Sequential lanes of D / 8 = 384 terms could reach 384; random signs make it about 20, a
cascade of halves log2(D) = 12."""

AGREEMENT = 0.9999
"""Share of tokens whose choice in float32 is that of float64, on a smooth series. The difference
form was measured at 0.99995 and above; materialised candidates reach 0.92 to 1."""

SMALL_DISTANCE = 1e-5
"""Relative error of a cosine distance between near vectors: SUMMED roundings of 2^-24 are 3e-6, in
numerator and denominator. At distances of 1e-8, a cosine taken in float32 is off by all of it."""
