// Numbers of bfloat16, read as float and rounded back; `widen` and `narrow` serve float too.

#pragma once

#include <cstdint>
#include <cstring>

namespace {

struct bfloat16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }

inline float widen(bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}

inline void narrow(float x, float& y) { y = x; }

inline void narrow(float x, bfloat16& y) {  // to nearest, ties to even, as torch rounds
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  y.bits = uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace
