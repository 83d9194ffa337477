// Row kernels of a training step on a processor: one pass over memory each, vectorised by the compiler.
//
// Called through native.py, which says what each is for. T is float or bfloat16; all sums are in fp32.
// A row belongs to one thread, and sums over rows are taken in blocks whose number does not depend on the
// threads, so results are the same for any number of threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "bfloat16.h"

namespace {

inline int32_t bits_of(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}

inline float float_of(int32_t bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// For x up to 88, below -87 as at -87: relative error below 2e-7 (the polynomial of Cephes' expf). NaN
// stays NaN.
inline float exponential(float x) {
  const float shift = 12582912.0f;  // 1.5 * 2^23: a sum with it is rounded to a whole number
  x = -87.0f > x ? -87.0f : x;
  const float shifted = x * 1.44269504088896341f + shift;
  const float n = shifted - shift;
  const float r = x - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * float_of(int32_t(uint32_t(bits_of(shifted)) << 23) + (127 << 23));  // p * 2^n
}

// 1 / d, by Newton's method from a first guess within an eighth of it that negates the exponent: vectors
// divide four times as slowly.
inline float reciprocal(float d) {
  float y = float_of(0x7ef311c7 - bits_of(d));
  y = y * (2.0f - d * y);
  y = y * (2.0f - d * y);
  return y * (2.0f - d * y);
}

inline float exponential_of_minus(float x) {
  const float minus = -x;
  return exponential(80.0f < minus ? 80.0f : minus);
}

// 1 / (1 + exp(-x))
inline float sigmoid(float x) { return reciprocal(1.0f + exponential_of_minus(x)); }

// A tile of scores (batch, heads, rows, keys), whose first row and key stand at these positions.
struct Tile {
  int64_t batch, heads, rows, keys, first_row, first_key, window, time;
  float scale;
  const float* slopes;         // (heads), or null
  const int32_t* document_ids; // (batch, time), or null
};

// What row r of a tile may attend to: keys [begin, end), those of the query's document.
// It is widened to whole vectors of keys, [first, last), within the tile.
struct Row {
  int32_t begin, end, first, last;
  float slope;
  int32_t position;  // of the query, counted as the tile's keys are
  const int32_t* documents;  // of the keys
  int32_t document;          // of the query
};

const int64_t VECTOR = 32;

Row row_of(const Tile& t, int64_t r) {
  const int64_t row = r % t.rows, head = r / t.rows % t.heads, sequence = r / t.rows / t.heads;
  const int64_t position = t.first_row + row - t.first_key;
  Row result;
  result.begin = t.window ? std::max<int64_t>(0, position - t.window + 1) : 0;
  result.end = std::min(t.keys, position + 1);
  result.first = result.begin / VECTOR * VECTOR;
  result.last = std::min(t.keys, (result.end + VECTOR - 1) / VECTOR * VECTOR);
  result.slope = t.slopes ? t.slopes[head] : 0.0f;
  result.position = position;
  result.documents = t.document_ids ? t.document_ids + sequence * t.time + t.first_key : nullptr;
  result.document = t.document_ids ? result.documents[position] : 0;
  return result;
}

template <class T>
inline void clear(T* x, int64_t begin, int64_t end) {
  if (begin < end) std::memset(static_cast<void*>(x + begin), 0, (end - begin) * sizeof(T));
}

template <class T>
void softmax(const Tile& t, T* scores, float* logsumexp, int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> buffer(t.keys);
    float* x = buffer.data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < t.batch * t.heads * t.rows; ++r) {
      const Row row = row_of(t, r);
      T* s = scores + r * t.keys;
      float top = -INFINITY, sum = 0.0f;
#pragma omp simd reduction(max : top)
      for (int32_t j = row.first; j < row.last; ++j) {
        const float y = widen(s[j]) * t.scale + row.slope * float(j - row.position);
        x[j] = (j >= row.begin) & (j < row.end) ? y : -INFINITY;
        top = x[j] > top ? x[j] : top;
      }
      if (row.documents) {
        top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int32_t j = row.first; j < row.last; ++j) {
          x[j] = row.documents[j] == row.document ? x[j] : -INFINITY;
          top = x[j] > top ? x[j] : top;
        }
      }
#pragma omp simd reduction(+ : sum)
      for (int32_t j = row.first; j < row.last; ++j) {
        const float y = exponential(x[j] - top);
        x[j] = x[j] == -INFINITY ? 0.0f : y;
        sum += x[j];
      }
      const float inverse = 1.0f / sum;
      clear(s, 0, row.first);
#pragma omp simd
      for (int32_t j = row.first; j < row.last; ++j) narrow(x[j] * inverse, s[j]);
      clear(s, row.last, t.keys);
      logsumexp[r] = top + std::log(sum);
    }
  }
}

template <class T>
void softmax_backward(const Tile& t, T* scores, T* gradient, const float* logsumexp,
                      const float* delta, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < t.batch * t.heads * t.rows; ++r) {
    const Row row = row_of(t, r);
    T *s = scores + r * t.keys, *g = gradient + r * t.keys;
    const float lse = logsumexp[r], mean = delta[r];
    clear(s, 0, row.first), clear(g, 0, row.first);
#pragma omp simd
    for (int32_t j = row.first; j < row.last; ++j) {
      const float x = widen(s[j]) * t.scale + row.slope * float(j - row.position);
      const float y = exponential(x - lse);
      const float p = (j >= row.begin) & (j < row.end) ? y : 0.0f;
      narrow(p, s[j]);
      narrow(p * (widen(g[j]) - mean) * t.scale, g[j]);
    }
    if (row.documents) {
      for (int32_t j = row.begin; j < row.end; ++j)
        if (row.documents[j] != row.document) narrow(0.0f, s[j]), narrow(0.0f, g[j]);
    }
    clear(s, row.last, t.keys), clear(g, row.last, t.keys);
  }
}

const float GELU = 1.5957691216057308f, CUBE = 0.044715f;  // 2 sqrt(2 / pi); Hendrycks and Gimpel 2016

struct GeluTanh {  // x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)): its tanh form, rewritten
  static float value(float x) { return x * sigmoid(GELU * (x + CUBE * x * x * x)); }
  static float slope(float x) {
    const float e = exponential_of_minus(GELU * (x + CUBE * x * x * x));
    const float s = reciprocal(1.0f + e);  // and 1 - s = e s, which does not cancel
    return s + x * s * (e * s) * GELU * (1.0f + 3.0f * CUBE * x * x);
  }
};

template <class T, class F>
void activation(int64_t rows, int64_t width, const T* x, const float* bias, T* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * width;
    T* out = y + r * width;
    if (bias) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) narrow(F::value(widen(in[j]) + bias[j]), out[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) narrow(F::value(widen(in[j])), out[j]);
    }
  }
}

const int64_t BLOCKS = 64;  // of rows, each with its sums

void add_blocks(int64_t width, const std::vector<float>& parts, float* sums) {
  std::fill(sums, sums + width, 0.0f);
  for (int64_t b = 0; b < BLOCKS; ++b)
    for (int64_t j = 0; j < width; ++j) sums[j] += parts[b * width + j];
}

template <class T, class F>
void activation_backward(int64_t rows, int64_t width, const T* d_y, const T* x, const float* bias,
                         T* d_x, float* d_bias, int threads) {
  const int64_t block = (rows + BLOCKS - 1) / BLOCKS;
  std::vector<float> sums(bias ? BLOCKS * width : 0, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < BLOCKS; ++b) {
    for (int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
      const T *d = d_y + r * width, *in = x + r * width;
      T* out = d_x + r * width;
      if (bias) {
        float* sum = sums.data() + b * width;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) {
          const float g = widen(d[j]) * F::slope(widen(in[j]) + bias[j]);
          narrow(g, out[j]);
          sum[j] += g;
        }
      } else {
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) narrow(widen(d[j]) * F::slope(widen(in[j])), out[j]);
      }
    }
  }
  if (!bias) return;
  add_blocks(width, sums, d_bias);
}

// x (rows, 2 width) holds the gate first: silu(gate) * up, Shazeer 2020, equation 6.
template <class T>
void swiglu(int64_t rows, int64_t width, const T* x, T* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T *gate = x + 2 * r * width, *up = gate + width;
    T* out = y + r * width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const float g = widen(gate[j]);
      narrow(g * sigmoid(g) * widen(up[j]), out[j]);
    }
  }
}

template <class T>
void swiglu_backward(int64_t rows, int64_t width, const T* d_y, const T* x, T* d_x, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T *d = d_y + r * width, *gate = x + 2 * r * width, *up = gate + width;
    T *d_gate = d_x + 2 * r * width, *d_up = d_gate + width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) {
      const float g = widen(gate[j]), e = exponential_of_minus(g), dy = widen(d[j]);
      const float s = reciprocal(1.0f + e);
      narrow(dy * widen(up[j]) * s * (1.0f + g * (e * s)), d_gate[j]);
      narrow(dy * g * s, d_up[j]);
    }
  }
}

// Cross-entropy of softmax(multiplier * logits + bias) at the targets, and z_loss * logsumexp^2 added to
// it (Chowdhery et al. 2022, section 5); the gradient of their sum takes the place of the logits where it
// is wanted. Rows whose target is negative count nothing.
template <class T>
void cross_entropy(int64_t rows, int64_t width, T* logits, const float* bias, const int64_t* targets,
                   float multiplier, float z_loss, int64_t gradient, float* loss, float* entropy,
                   int threads) {
#pragma omp parallel num_threads(threads)
  {
    std::vector<float> buffer(width);
    float* x = buffer.data();
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; ++r) {
      T* row = logits + r * width;
      const int64_t target = targets[r];
      loss[r] = entropy[r] = 0.0f;
      if (target < 0) {
        if (gradient) clear(row, 0, width);
        continue;
      }
      float top = -INFINITY, sum = 0.0f;
      for (int64_t j = 0; bias && j < width; ++j) x[j] = bias[j];
      if (!bias) std::fill(buffer.begin(), buffer.end(), 0.0f);
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < width; ++j) {
        x[j] += widen(row[j]) * multiplier;
        top = x[j] > top ? x[j] : top;
      }
      const float at_target = x[target] - top;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < width; ++j) {
        x[j] = exponential(x[j] - top);
        sum += x[j];
      }
      const float lse = top + std::log(sum);
      entropy[r] = std::log(sum) - at_target;
      loss[r] = entropy[r] + z_loss * lse * lse;
      if (!gradient) continue;
      const float factor = (1.0f + 2.0f * z_loss * lse) / sum;
      x[target] -= 1.0f / factor;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) narrow(x[j] * factor * multiplier, row[j]);
    }
  }
}

// The sum of a * b over each row.
template <class T>
void row_products(int64_t rows, int64_t width, const T* a, const T* b, float* sums, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += widen(a[r * width + j]) * widen(b[r * width + j]);
    sums[r] = sum;
  }
}

// Root mean square norm: y = x * inverse * weight, inverse = 1 / sqrt(mean x^2 + epsilon) of each row.
template <class T>
void rms_norm(int64_t rows, int64_t width, const T* x, const float* weight, float epsilon, T* y,
              float* inverse, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * width;
    T* out = y + r * width;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += widen(in[j]) * widen(in[j]);
    const float factor = inverse[r] = 1.0f / std::sqrt(sum / float(width) + epsilon);
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) narrow(widen(in[j]) * factor * weight[j], out[j]);
  }
}

template <class T>
void rms_norm_backward(int64_t rows, int64_t width, const T* d_y, const T* x, const float* weight,
                       const float* inverse, T* d_x, float* d_weight, int threads) {
  const int64_t block = (rows + BLOCKS - 1) / BLOCKS;
  std::vector<float> sums(BLOCKS * width, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < BLOCKS; ++b) {
    float* sum = sums.data() + b * width;
    for (int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
      const T *d = d_y + r * width, *in = x + r * width;
      T* out = d_x + r * width;
      const float factor = inverse[r];
      float product = 0.0f;
#pragma omp simd reduction(+ : product)
      for (int64_t j = 0; j < width; ++j) product += widen(d[j]) * weight[j] * widen(in[j]);
      const float mean = product * factor * factor / float(width);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const float g = widen(d[j]), v = widen(in[j]);
        narrow(factor * (g * weight[j] - v * mean), out[j]);
        sum[j] += g * v * factor;
      }
    }
  }
  add_blocks(width, sums, d_weight);
}

// Layer norm: y = (x - mean) * inverse * weight + bias (bias may be null), inverse = 1 / sqrt(variance +
// epsilon) of each row.
template <class T>
void layer_norm(int64_t rows, int64_t width, const T* x, const float* weight, const float* bias,
                float epsilon, T* y, float* means, float* inverse, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const T* in = x + r * width;
    T* out = y + r * width;
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < width; ++j) sum += widen(in[j]);
    const float mean = means[r] = sum / float(width);
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < width; ++j) squares += (widen(in[j]) - mean) * (widen(in[j]) - mean);
    const float factor = inverse[r] = 1.0f / std::sqrt(squares / float(width) + epsilon);
    if (bias) {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j)
        narrow((widen(in[j]) - mean) * factor * weight[j] + bias[j], out[j]);
    } else {
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) narrow((widen(in[j]) - mean) * factor * weight[j], out[j]);
    }
  }
}

template <class T>
void layer_norm_backward(int64_t rows, int64_t width, const T* d_y, const T* x, const float* weight,
                         const float* means, const float* inverse, T* d_x, float* d_weight,
                         float* d_bias, int threads) {
  const int64_t block = (rows + BLOCKS - 1) / BLOCKS;
  std::vector<float> weights(BLOCKS * width, 0.0f), biases(BLOCKS * width, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < BLOCKS; ++b) {
    float *w = weights.data() + b * width, *c = biases.data() + b * width;
    for (int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
      const T *d = d_y + r * width, *in = x + r * width;
      T* out = d_x + r * width;
      const float mean = means[r], factor = inverse[r];
      float sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
      for (int64_t j = 0; j < width; ++j) {
        const float g = widen(d[j]) * weight[j];
        sum += g;
        product += g * (widen(in[j]) - mean) * factor;
      }
      sum /= float(width);
      product /= float(width);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) {
        const float g = widen(d[j]), v = (widen(in[j]) - mean) * factor;
        narrow(factor * (g * weight[j] - sum - v * product), out[j]);
        w[j] += g * v;
        c[j] += g;
      }
    }
  }
  add_blocks(width, weights, d_weight);
  add_blocks(width, biases, d_bias);
}

// Rotary embedding of x (rows, heads, width), whose rows are `stride` numbers apart, to y, whose rows are
// not: the first 2 * pairs numbers of a head are turned by the angles of its row, or of row % period.
// direction: 1, or -1 to turn back.
template <class T>
void rotate(int64_t rows, int64_t heads, int64_t width, int64_t stride, int64_t pairs, int64_t period,
            int64_t interleaved, const T* x, const float* cosine, const float* sine, float direction,
            T* y, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    const float *c = cosine + r % period * pairs, *s = sine + r % period * pairs;
    for (int64_t h = 0; h < heads; ++h) {
      const T* in = x + r * stride + h * width;
      T* out = y + (r * heads + h) * width;
      if (interleaved) {
#pragma omp simd
        for (int64_t j = 0; j < pairs; ++j) {
          const float a = widen(in[2 * j]), b = widen(in[2 * j + 1]), turn = direction * s[j];
          narrow(a * c[j] - b * turn, out[2 * j]);
          narrow(b * c[j] + a * turn, out[2 * j + 1]);
        }
      } else {
#pragma omp simd
        for (int64_t j = 0; j < pairs; ++j) {
          const float a = widen(in[j]), b = widen(in[pairs + j]), turn = direction * s[j];
          narrow(a * c[j] - b * turn, out[j]);
          narrow(b * c[j] + a * turn, out[pairs + j]);
        }
      }
      for (int64_t j = 2 * pairs; j < width; ++j) out[j] = in[j];
    }
  }
}

template <class T>
void add_bias(int64_t rows, int64_t width, T* x, const float* bias, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t r = 0; r < rows; ++r) {
    T* row = x + r * width;
#pragma omp simd
    for (int64_t j = 0; j < width; ++j) narrow(widen(row[j]) + bias[j], row[j]);
  }
}

template <class T>
void column_sums(int64_t rows, int64_t width, const T* x, float* sums, int threads) {
  const int64_t block = (rows + BLOCKS - 1) / BLOCKS;
  std::vector<float> parts(BLOCKS * width, 0.0f);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < BLOCKS; ++b) {
    float* part = parts.data() + b * width;
    for (int64_t r = b * block; r < std::min(rows, (b + 1) * block); ++r) {
      const T* row = x + r * width;
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) part[j] += widen(row[j]);
    }
  }
  add_blocks(width, parts, sums);
}

}  // namespace

#define EXPORT(NAME, T)                                                                                \
  extern "C" void softmax_##NAME(const Tile* tile, T* scores, float* logsumexp, int threads) {         \
    softmax(*tile, scores, logsumexp, threads);                                                        \
  }                                                                                                    \
  extern "C" void softmax_backward_##NAME(const Tile* tile, T* scores, T* gradient,                    \
                                          const float* logsumexp, const float* delta, int threads) {   \
    softmax_backward(*tile, scores, gradient, logsumexp, delta, threads);                              \
  }                                                                                                    \
  extern "C" void gelu_tanh_##NAME(int64_t rows, int64_t width, const T* x, const float* bias, T* y,   \
                                   int threads) {                                                      \
    activation<T, GeluTanh>(rows, width, x, bias, y, threads);                                         \
  }                                                                                                    \
  extern "C" void gelu_tanh_backward_##NAME(int64_t rows, int64_t width, const T* d_y, const T* x,     \
                                            const float* bias, T* d_x, float* d_bias, int threads) {   \
    activation_backward<T, GeluTanh>(rows, width, d_y, x, bias, d_x, d_bias, threads);                 \
  }                                                                                                    \
  extern "C" void swiglu_##NAME(int64_t rows, int64_t width, const T* x, T* y, int threads) {          \
    swiglu(rows, width, x, y, threads);                                                                \
  }                                                                                                    \
  extern "C" void swiglu_backward_##NAME(int64_t rows, int64_t width, const T* d_y, const T* x,        \
                                         T* d_x, int threads) {                                        \
    swiglu_backward(rows, width, d_y, x, d_x, threads);                                                \
  }                                                                                                    \
  extern "C" void cross_entropy_##NAME(int64_t rows, int64_t width, T* logits, const float* bias,      \
                                       const int64_t* targets, float multiplier, float z_loss,         \
                                       int64_t gradient, float* loss, float* entropy, int threads) {   \
    cross_entropy(rows, width, logits, bias, targets, multiplier, z_loss, gradient, loss, entropy,     \
                  threads);                                                                            \
  }                                                                                                    \
  extern "C" void rms_norm_##NAME(int64_t rows, int64_t width, const T* x, const float* weight,        \
                                  float epsilon, T* y, float* inverse, int threads) {                  \
    rms_norm(rows, width, x, weight, epsilon, y, inverse, threads);                                    \
  }                                                                                                    \
  extern "C" void rms_norm_backward_##NAME(int64_t rows, int64_t width, const T* d_y, const T* x,      \
                                           const float* weight, const float* inverse, T* d_x,          \
                                           float* d_weight, int threads) {                             \
    rms_norm_backward(rows, width, d_y, x, weight, inverse, d_x, d_weight, threads);                   \
  }                                                                                                    \
  extern "C" void layer_norm_##NAME(int64_t rows, int64_t width, const T* x, const float* weight,      \
                                    const float* bias, float epsilon, T* y, float* means,              \
                                    float* inverse, int threads) {                                     \
    layer_norm(rows, width, x, weight, bias, epsilon, y, means, inverse, threads);                     \
  }                                                                                                    \
  extern "C" void layer_norm_backward_##NAME(int64_t rows, int64_t width, const T* d_y, const T* x,    \
                                             const float* weight, const float* means,                  \
                                             const float* inverse, T* d_x, float* d_weight,            \
                                             float* d_bias, int threads) {                             \
    layer_norm_backward(rows, width, d_y, x, weight, means, inverse, d_x, d_weight, d_bias, threads);  \
  }                                                                                                    \
  extern "C" void rotate_##NAME(int64_t rows, int64_t heads, int64_t width, int64_t stride,            \
                                int64_t pairs, int64_t period, int64_t interleaved, const T* x,        \
                                const float* cosine, const float* sine, float direction, T* y,         \
                                int threads) {                                                         \
    rotate(rows, heads, width, stride, pairs, period, interleaved, x, cosine, sine, direction, y,      \
           threads);                                                                                   \
  }                                                                                                    \
  extern "C" void add_bias_##NAME(int64_t rows, int64_t width, T* x, const float* bias, int threads) { \
    add_bias(rows, width, x, bias, threads);                                                           \
  }                                                                                                    \
  extern "C" void column_sums_##NAME(int64_t rows, int64_t width, const T* x, float* sums,             \
                                     int threads) {                                                    \
    column_sums(rows, width, x, sums, threads);                                                        \
  }                                                                                                    \
  extern "C" void row_products_##NAME(int64_t rows, int64_t width, const T* a, const T* b,             \
                                      float* sums, int threads) {                                      \
    row_products(rows, width, a, b, sums, threads);                                                    \
  }

EXPORT(float32, float)
EXPORT(bfloat16, bfloat16)
