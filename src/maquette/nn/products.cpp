// Products of a few rows with a matrix of weights in 16, 8 or 4 bits: what decoding a token costs.
//
// Called through native_products.py. A product of one row reads every weight once, so it should take as long as
// that reading: no weight is ever written as a larger number. Weights in few bits lie in panels of 16
// rows of the matrix; a panel has for each group of columns
//
//     codes   of 4 columns of each of the 16 rows, then of the next 4 ...; in 4 bits the low halves of the
//             bytes are 4 columns, and the high halves the next 4
//     scales  16 of bf16, and in the asymmetric kind 16 minima of bf16
//
// A weight is scale * (code - 2^(bits - 1)), or scale * code + minimum. Numbers of the other factor become whole
// ones of 16 bits, with a scale for each group: high and low byte are multiplied apart, 64 products an
// instruction where the processor has them (AVX512-VNNI). All sums of a group are exact.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"

#ifdef __AVX512BW__
#include <immintrin.h>
#endif

namespace {

constexpr int64_t LANES = 16;  // rows of a panel
constexpr int64_t AHEAD = 2048;  // bytes from which on the next ones are asked of the memory

// Rows of the other factor as whole numbers.
struct Whole {
  std::vector<int8_t> high, low;  // (rows, columns): 256 * high + low
  std::vector<float> scales;      // (rows, groups)
  std::vector<int32_t> sums;      // (rows, groups)
};

// The nearest whole number, of at most 22 bits: a sum with 1.5 * 2^23 has no others.
inline int32_t rounded(float x) {
  const float sum = x + 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &sum, 4);
  return bits - 0x4b400000;
}

template <class T>
void to_whole(const T* x, int64_t rows, int64_t columns, int64_t groups, int64_t group, Whole& out) {
  out.high.resize(rows * groups * group + 4);
  out.low.resize(rows * groups * group + 4);
  out.scales.resize(rows * groups);
  out.sums.resize(rows * groups);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t g = 0; g < groups; ++g) {
      const T* in = x + r * columns + g * group;
      const int64_t width = std::min(group, columns - g * group);
      float top = 0.0f, zero = 0.0f;
#pragma omp simd reduction(max : top) reduction(+ : zero)
      for (int64_t k = 0; k < width; ++k) {
        const float size = std::fabs(widen(in[k]));
        top = std::max(top, size), zero += 0.0f * size;  // NaN where one is not finite
      }
      const float scale = top / 32512.0f, inverse = top > 0.0f ? 32512.0f / top : 0.0f;
      int8_t *high = &out.high[(r * groups + g) * group], *low = &out.low[(r * groups + g) * group];
      int32_t sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t k = 0; k < width; ++k) {
        const int32_t q = rounded(widen(in[k]) * inverse), h = (q + 128) >> 8;
        high[k] = int8_t(h);
        low[k] = int8_t(q - 256 * h);
        sum += q;
      }
      for (int64_t k = width; k < group; ++k) high[k] = low[k] = 0;
      out.scales[r * groups + g] = scale + zero;
      out.sums[r * groups + g] = sum;
    }
}

// PANELS panels with one row, (PANELS, LANES); size: bytes of a panel.
template <int BITS, bool ASYMMETRIC, int PANELS>
void multiply(const uint8_t* p, int64_t size, int64_t groups, int64_t group, const int8_t* high,
              const int8_t* low, const float* scales, const int32_t* sums, float* y) {
  const int64_t codes = LANES * group * BITS / 8;
  const int32_t zero = ASYMMETRIC ? 0 : 1 << (BITS - 1);
#ifdef __AVX512VNNI__
  const auto four = [](const int8_t* x) {
    int32_t bits;
    std::memcpy(&bits, x, 4);
    return _mm512_set1_epi32(bits);
  };
  const auto widened = [](const uint8_t* x) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  };
  const __m512i half = _mm512_set1_epi8(15);
  __m512 totals[PANELS];
  for (auto& total : totals) total = _mm512_setzero_ps();
  for (int64_t g = 0; g < groups; ++g) {
    __m512i a[PANELS], b[PANELS];
    for (int i = 0; i < PANELS; ++i) {
      a[i] = _mm512_setzero_si512();
      b[i] = _mm512_set1_epi32(-zero * sums[g]);
    }
    for (int64_t c = 0; c < codes; c += 64) {
      const __m512i h = four(high), l = four(low), h2 = four(high + 4), l2 = four(low + 4);
      for (int i = 0; i < PANELS; ++i) {
        const uint8_t* at = p + i * size + c;
        _mm_prefetch(reinterpret_cast<const char*>(at + AHEAD), _MM_HINT_T0);
        const __m512i v = _mm512_loadu_si512(at);
        if constexpr (BITS == 8) {
          a[i] = _mm512_dpbusd_epi32(a[i], v, h), b[i] = _mm512_dpbusd_epi32(b[i], v, l);
        } else {
          const __m512i first = _mm512_and_si512(v, half);
          const __m512i second = _mm512_and_si512(_mm512_srli_epi16(v, 4), half);
          a[i] = _mm512_dpbusd_epi32(a[i], first, h), b[i] = _mm512_dpbusd_epi32(b[i], first, l);
          a[i] = _mm512_dpbusd_epi32(a[i], second, h2), b[i] = _mm512_dpbusd_epi32(b[i], second, l2);
        }
      }
      high += 32 / BITS, low += 32 / BITS;
    }
    for (int i = 0; i < PANELS; ++i) {
      const uint8_t* at = p + i * size + codes;
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(a[i], 8), b[i]));
      totals[i] = _mm512_fmadd_ps(sum, _mm512_mul_ps(widened(at), _mm512_set1_ps(scales[g])), totals[i]);
      if constexpr (ASYMMETRIC) {
        const __m512 minima = widened(at + 2 * LANES);
        totals[i] = _mm512_fmadd_ps(minima, _mm512_set1_ps(scales[g] * float(sums[g])), totals[i]);
      }
    }
    p += codes + (ASYMMETRIC ? 4 : 2) * LANES;
  }
  for (int i = 0; i < PANELS; ++i) _mm512_storeu_ps(y + i * LANES, totals[i]);
#else
  std::fill_n(y, PANELS * LANES, 0.0f);
  for (int64_t g = 0; g < groups; ++g) {
    for (int i = 0; i < PANELS; ++i) {
      const uint8_t* at = p + i * size;
      int32_t a[LANES];
      std::fill_n(a, LANES, -zero * sums[g]);
      for (int64_t k = 0; k < group; ++k) {
        const int32_t x = 256 * high[k] + low[k];
        const uint8_t* c = at + (BITS == 8 ? k / 4 * 64 + k % 4 : k / 8 * 64 + k % 4);
        const int shift = BITS == 4 && k % 8 > 3 ? 4 : 0;
#pragma omp simd
        for (int64_t n = 0; n < LANES; ++n) a[n] += ((c[4 * n] >> shift) & ((1 << BITS) - 1)) * x;
      }
      bfloat16 scale[2 * LANES];
      std::memcpy(scale, at + codes, (ASYMMETRIC ? 4 : 2) * LANES);
      for (int64_t n = 0; n < LANES; ++n) {
        float& total = y[i * LANES + n];
        total += float(a[n]) * (widen(scale[n]) * scales[g]);
        if constexpr (ASYMMETRIC) total += widen(scale[LANES + n]) * (scales[g] * float(sums[g]));
      }
    }
    high += group, low += group, p += codes + (ASYMMETRIC ? 4 : 2) * LANES;
  }
#endif
}

// y = x W^T; x: (rows, columns), y: (rows, outputs).
template <int BITS, bool ASYMMETRIC, class T>
void product(int64_t rows, int64_t columns, int64_t group, int64_t outputs, const T* x,
             const uint8_t* packed, T* y, int threads) {
  const int64_t groups = (columns + group - 1) / group, panels = (outputs + LANES - 1) / LANES;
  const int64_t size = groups * (LANES * group * BITS / 8 + (ASYMMETRIC ? 4 : 2) * LANES);
  static thread_local Whole whole;
  to_whole(x, rows, columns, groups, group, whole);
  const Whole& in = whole;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < panels; n += 2)
    for (int64_t r = 0; r < rows; ++r) {
      float out[2 * LANES];
      const int64_t first = r * groups;
      const auto way = n + 1 < panels ? multiply<BITS, ASYMMETRIC, 2> : multiply<BITS, ASYMMETRIC, 1>;
      way(packed + n * size, size, groups, group, &in.high[first * group], &in.low[first * group],
          &in.scales[first], &in.sums[first], out);
      for (int64_t i = 0; i < std::min(2 * LANES, outputs - n * LANES); ++i)
        narrow(out[i], y[r * outputs + n * LANES + i]);
    }
}

#ifdef __AVX512BW__
// The next 16 codes of one row of a panel.
template <int BITS>
__m128i decoded(const uint8_t* p) {
  int32_t four[4] = {};
  for (int j = 0; j < BITS / 2; ++j) std::memcpy(four + j, p + 64 * j, 4);
  const __m128i x = _mm_setr_epi32(four[0], four[1], four[2], four[3]), half = _mm_set1_epi8(15);
  if constexpr (BITS == 8) return x;
  return _mm_unpacklo_epi32(_mm_and_si128(x, half), _mm_and_si128(_mm_srli_epi16(x, 4), half));
}

inline __m512 weights_of(__m128i codes, float scale, float zero) {
  const __m512 x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
  return _mm512_fmadd_ps(x, _mm512_set1_ps(scale), _mm512_set1_ps(zero));
}

inline void store(__m128i codes, float scale, float zero, float* out) {
  _mm512_storeu_ps(out, weights_of(codes, scale, zero));
}

inline void store(__m128i codes, float scale, float zero, bfloat16* out) {  // rounded as by narrow
  const __m512i bits = _mm512_castps_si512(weights_of(codes, scale, zero));
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
}
#endif

// The weights as numbers again, (outputs, columns).
template <int BITS, bool ASYMMETRIC, class T>
void unpack(int64_t columns, int64_t group, int64_t outputs, const uint8_t* packed, T* weight, int threads) {
  const int64_t groups = (columns + group - 1) / group, panels = (outputs + LANES - 1) / LANES;
  const int64_t codes = LANES * group * BITS / 8, size = codes + (ASYMMETRIC ? 4 : 2) * LANES;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < panels; ++n)
    for (int64_t g = 0; g < groups; ++g) {
      const uint8_t* p = packed + (n * groups + g) * size;
      bfloat16 scales[2 * LANES];
      std::memcpy(scales, p + codes, size - codes);
      const int64_t width = std::min(group, columns - g * group);
      for (int64_t i = 0; i < std::min(LANES, outputs - n * LANES); ++i) {
        const float scale = widen(scales[i]);
        const float zero = ASYMMETRIC ? widen(scales[LANES + i]) : -scale * (1 << (BITS - 1));
        T* out = weight + (n * LANES + i) * columns + g * group;
        int64_t k = 0;
#ifdef __AVX512BW__
        for (; k + 16 <= width; k += 16) store(decoded<BITS>(p + k * LANES * BITS / 8 + 4 * i), scale, zero, out + k);
#endif
        for (; k < width; ++k) {
          const uint8_t code = p[BITS == 8 ? k / 4 * 64 + 4 * i + k % 4 : k / 8 * 64 + 4 * i + k % 4];
          narrow(float(BITS == 8 ? code : code >> (k % 8 > 3 ? 4 : 0) & 15) * scale + zero, out[k]);
        }
      }
    }
}

// Four rows of a matrix of bf16 with a row x of bf16 or float.
template <class T>
void four_rows(const bfloat16* const* w, int64_t columns, const T* x, float* y) {
  int64_t k = 0;
  float sums[4] = {};
#ifdef __AVX512BF16__
  if constexpr (sizeof(T) == 2) {
    __m512 pairs[4];
    for (int i = 0; i < 4; ++i) pairs[i] = _mm512_setzero_ps();
    for (; k + 32 <= columns; k += 32) {
      const __m512i a = _mm512_loadu_si512(x + k);
      for (int i = 0; i < 4; ++i) {
        _mm_prefetch(reinterpret_cast<const char*>(w[i] + k) + AHEAD, _MM_HINT_T0);
        pairs[i] = _mm512_dpbf16_ps(pairs[i], (__m512bh)_mm512_loadu_si512(w[i] + k), (__m512bh)a);
      }
    }
    for (int i = 0; i < 4; ++i) sums[i] = _mm512_reduce_add_ps(pairs[i]);
  }
#endif
  for (int i = 0; i < 4; ++i) {
    float sum = sums[i];
#pragma omp simd reduction(+ : sum)
    for (int64_t j = k; j < columns; ++j) sum += widen(w[i][j]) * widen(x[j]);
    y[i] = sum;
  }
}

// y = x W^T of weights in bf16 as torch has them, (outputs, columns).
template <class T>
void product_of_bf16(int64_t rows, int64_t columns, int64_t outputs, const T* x, const bfloat16* weight,
                     T* y, int threads) {
  const int64_t blocks = (outputs + 3) / 4;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t n = 0; n < blocks; ++n) {
    const bfloat16* w[4];
    for (int64_t i = 0; i < 4; ++i) w[i] = weight + std::min(4 * n + i, outputs - 1) * columns;
    for (int64_t r = 0; r < rows; ++r) {
      float out[4];
      four_rows(w, columns, x + r * columns, out);
      for (int64_t i = 0; i < std::min<int64_t>(4, outputs - 4 * n); ++i)
        narrow(out[i], y[r * outputs + 4 * n + i]);
    }
  }
}

}  // namespace

#define EXPORT_PACKED(KIND, BITS, ASYMMETRIC, NAME, T)                                                  \
  extern "C" void product_##KIND##_##NAME(int64_t rows, int64_t columns, int64_t group,                 \
                                          int64_t outputs, const T* x, const uint8_t* packed, T* y,     \
                                          int threads) {                                                \
    product<BITS, ASYMMETRIC>(rows, columns, group, outputs, x, packed, y, threads);                    \
  }                                                                                                     \
  extern "C" void unpack_##KIND##_##NAME(int64_t columns, int64_t group, int64_t outputs,               \
                                         const uint8_t* packed, T* weight, int threads) {               \
    unpack<BITS, ASYMMETRIC>(columns, group, outputs, packed, weight, threads);                         \
  }

#define EXPORT(NAME, T)                                                                                 \
  EXPORT_PACKED(4, 4, false, NAME, T)                                                                   \
  EXPORT_PACKED(4a, 4, true, NAME, T)                                                                   \
  EXPORT_PACKED(8, 8, false, NAME, T)                                                                   \
  EXPORT_PACKED(8a, 8, true, NAME, T)                                                                   \
  extern "C" void product_16_##NAME(int64_t rows, int64_t columns, int64_t outputs, const T* x,         \
                                    const bfloat16* weight, T* y, int threads) {                        \
    product_of_bf16(rows, columns, outputs, x, weight, y, threads);                                     \
  }

EXPORT(float32, float)
EXPORT(bfloat16, bfloat16)
