"""What LLVM calls to convert f16 where the processor has no instruction for it.

IEEE 754 binary16, rounded to nearest even, in whole numbers.
"""

from __future__ import annotations

EXTEND = """
define float @__extendhfsf2(half %x) {
  %bits = bitcast half %x to i16
  %wide = zext i16 %bits to i32
  %signed = and i32 %wide, 32768
  %sign = shl i32 %signed, 16
  %size = and i32 %wide, 32767
  %shifted = shl i32 %size, 13
  %normal = add i32 %shifted, 939524096
  %endless = or i32 %shifted, 2139095040
  %count = uitofp i32 %size to float
  %tiny = fmul float %count, 0x3E70000000000000
  %small = bitcast float %tiny to i32
  %is_small = icmp ult i32 %size, 1024
  %is_endless = icmp uge i32 %size, 31744
  %finite = select i1 %is_small, i32 %small, i32 %normal
  %found = select i1 %is_endless, i32 %endless, i32 %finite
  %all = or i32 %found, %sign
  %result = bitcast i32 %all to float
  ret float %result
}
"""
"""A small one counts 2^-24; the exponent of others grows by 112."""

TRUNCATE = """
define half @__truncsfhf2(float %x) {
  %bits = bitcast float %x to i32
  %high = lshr i32 %bits, 16
  %sign = and i32 %high, 32768
  %size = and i32 %bits, 2147483647
  %lower = lshr i32 %size, 13
  %odd = and i32 %lower, 1
  %less = add i32 %size, 3355443200
  %nearly = add i32 %less, 4095
  %even = add i32 %nearly, %odd
  %normal = lshr i32 %even, 13
  %positive = bitcast i32 %size to float
  %aligned = fadd float %positive, 5.0e-1
  %raised = bitcast float %aligned to i32
  %small = sub i32 %raised, 1056964608
  %payload = and i32 %lower, 1023
  %none = or i32 %payload, 32256
  %is_small = icmp ult i32 %size, 947912704
  %is_large = icmp uge i32 %size, 1199566848
  %is_none = icmp ugt i32 %size, 2139095040
  %finite = select i1 %is_small, i32 %small, i32 %normal
  %bounded = select i1 %is_large, i32 31744, i32 %finite
  %found = select i1 %is_none, i32 %none, i32 %bounded
  %all = or i32 %found, %sign
  %narrow = trunc i32 %all to i16
  %result = bitcast i16 %narrow to half
  ret half %result
}
"""
"""Half added to a small one rounds it to 2^-24; from 65520 on all are infinite."""


def conversions(source: str, has_instruction: bool) -> str:
    """The functions that a text needs."""
    return "" if has_instruction or "half" not in source else EXTEND + TRUNCATE
