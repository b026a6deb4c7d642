#include "framework/kernels/cpu/packed_products.h"

#include "framework/kernels/cpu/words.h"

namespace regroup::kernels::cpu {
namespace {

template <typename T, typename C>
REGROUP_INLINE void copy_row(const T* x, int64_t k, int64_t width, C* out) {
  for (int64_t j = 0; j < k; ++j) store(out, j, load(x, j));
  for (int64_t j = k; j < width; ++j) store(out, j, 0.0F);
}
REGROUP_INLINE void copy_row(const float* x, int64_t k, int64_t width, c10::BFloat16* out) {
  for (int64_t j = 0; j < width; j += kWords) {
    std::array<float, kWords> copy;
    store_vector(out + j, bfloat16_halves(filled_up(x + j, k - j, copy)));
  }
}

/// The first numbers of a row, with zeros behind those that are available; zeros for null.
template <typename C, typename T>
REGROUP_INLINE Words row_words(const T* row, int64_t available) {
  if (row == nullptr) return Words{};
  std::array<T, kPerWords<C>> copy;
  return words_of<C>(filled_up(row, available, copy));
}

/// Sixteen numbers of two rows, one beside the other.
template <typename T>
REGROUP_INLINE Words interleaved(const T* even, const T* odd, int64_t available) {
  std::array<T, kWords> even_copy, odd_copy;
  return bfloat16_words(filled_up(even, available, even_copy)) |
         bfloat16_words(filled_up(odd, available, odd_copy)) << 16;
}

template <typename T>
REGROUP_INLINE void pack_rows(const T* x, int64_t stride, int64_t k, int64_t n, float* out) {
  for (int64_t i = 0; i < padded(k); ++i)
    copy_row(x + i * stride, i < k ? n : 0, padded(n), out + i * padded(n));
}
template <typename T>
REGROUP_INLINE void pack_rows(const T* x, int64_t stride, int64_t k, int64_t n,
                              c10::BFloat16* out) {
  const std::array<T, kWords> zeros{};
  for (int64_t i = 0; i < padded(k); i += 2, out += 2 * padded(n)) {
    for (int64_t j = 0; j < n; j += kWords) {
      const T* even = i < k ? x + i * stride + j : zeros.data();
      const T* odd = i + 1 < k ? x + (i + 1) * stride + j : zeros.data();
      store_vector(out + 2 * j, interleaved(even, odd, n - j));
    }
  }
}

/// Words of rows [n, k] become columns.
template <typename T, typename C>
REGROUP_INLINE void pack_columns(const T* x, int64_t stride, int64_t n, int64_t k, C* out) {
  constexpr int64_t kPerWord = kPerWords<C> / kWords;
  const int64_t width = padded(n), n_rows = padded(k) / kPerWord;
  for (int64_t i = 0; i < n_rows; i += kWords) {
    const int64_t available = k - i * kPerWord;
    for (int64_t j = 0; j < n; j += kWords) {
      Words tile[kWords];
      for (int64_t row = 0; row < kWords; ++row) {
        tile[row] =
            row_words<C>(j + row < n ? x + (j + row) * stride + i * kPerWord : nullptr, available);
      }
      transpose(tile);
      for (int64_t row = 0; row < kWords && i + row < n_rows; ++row)
        store_vector(out + ((i + row) * width + j) * kPerWord, tile[row]);
    }
  }
}

template <typename T>
REGROUP_INLINE void transpose_rows(const T* x, int64_t stride, int64_t k, int64_t m, float* out,
                                   int64_t out_stride) {
  for (int64_t j = 0; j < k; j += kWords) {
    for (int64_t i = 0; i < m; i += kWords) {
      Words tile[kWords];
      for (int64_t row = 0; row < kWords; ++row) {
        tile[row] = row_words<float>(j + row < k ? x + (j + row) * stride + i : nullptr, m - i);
      }
      transpose(tile);
      for (int64_t row = 0; row < kWords && i + row < m; ++row)
        store_vector(out + (i + row) * out_stride + j, tile[row]);
    }
  }
}

/// Rows 2 i and 2 i + 1 of a word's two columns are two words, of which each is a word of a
/// transposed row.
template <typename T>
REGROUP_INLINE void transpose_rows(const T* x, int64_t stride, int64_t k, int64_t m,
                                   c10::BFloat16* out, int64_t out_stride) {
  using C = c10::BFloat16;
  constexpr int64_t kSide = kPerWords<C>;
  for (int64_t j = 0; j < k; j += kSide) {
    const auto bytes = static_cast<size_t>(std::min(kSide, padded(k) - j)) * sizeof(C);
    for (int64_t i = 0; i < m; i += kSide) {
      Words left_columns[kWords], right_columns[kWords];
      for (int64_t row = 0; row < kWords; ++row) {
        const int64_t first = j + 2 * row;
        const Words even = row_words<C>(first < k ? x + first * stride + i : nullptr, m - i);
        const Words odd =
            row_words<C>(first + 1 < k ? x + (first + 1) * stride + i : nullptr, m - i);
        left_columns[row] = (even & 0xffffU) | (odd << 16);
        right_columns[row] = (even >> 16) | (odd & 0xffff0000U);
      }
      transpose(left_columns);
      transpose(right_columns);
      for (int64_t column = 0; column < kSide && i + column < m; ++column) {
        const Words& found = (column % 2 == 0 ? left_columns : right_columns)[column / 2];
        std::memcpy(static_cast<void*>(out + (i + column) * out_stride + j), &found, bytes);
      }
    }
  }
}

}  // namespace

#define DEFINE(T, C)                                                                             \
  REGROUP_CPU_CLONES void left(const T* x, int64_t stride, int64_t m, int64_t k, C* out) {       \
    for (int64_t i = 0; i < m; ++i) copy_row(x + i * stride, k, padded(k), out + i * padded(k)); \
  }                                                                                              \
  REGROUP_CPU_CLONES void left_of_columns(const T* x, int64_t stride, int64_t k, int64_t m,      \
                                          C* out, int64_t out_stride) {                          \
    transpose_rows(x, stride, k, m, out, out_stride);                                            \
  }                                                                                              \
  REGROUP_CPU_CLONES void right(const T* x, int64_t stride, int64_t k, int64_t n, C* out) {      \
    pack_rows(x, stride, k, n, out);                                                             \
  }                                                                                              \
  REGROUP_CPU_CLONES void right_of_columns(const T* x, int64_t stride, int64_t n, int64_t k,     \
                                           C* out) {                                             \
    pack_columns(x, stride, n, k, out);                                                          \
  }
DEFINE(float, float)
DEFINE(float, c10::BFloat16)
DEFINE(c10::BFloat16, float)
DEFINE(c10::BFloat16, c10::BFloat16)
#undef DEFINE

}  // namespace regroup::kernels::cpu
