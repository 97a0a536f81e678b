// Products of a matrix, whose rows lie next to each other, with a few vectors at once: every value
// of the matrix is read once for all of them.
#pragma once

#include <type_traits>

#include "lanes.h"

namespace {

// As many sums as fit into the registers beside what they are summed from.
constexpr int kProductVectors = 6, kProductRows = 2, kAddedColumns = 2;
// Rows that stay in the first cache while all vectors pass over them.
constexpr int64_t kProductBlock = 8;

// Calls run(e, n) for the vectors [e, e + n), n a constant, until all have had their turn.
template <int kVectors = kProductVectors, class Run>
LANES_INLINE void for_vectors(int64_t e, int64_t count, Run run) {
    for (; e + kVectors <= count; e += kVectors) run(e, std::integral_constant<int, kVectors>());
    if constexpr (kVectors > 1) for_vectors<kVectors - 1>(e, count, run);
}

// Calls run(row, end, e, n): all vectors for a block of rows, then for the next one.
template <class Run>
LANES_INLINE void for_products(int64_t rows, int64_t count, Run run) {
    for (int64_t row = 0; row < rows; row += kProductBlock) {
        const int64_t end = rows - row < kProductBlock ? rows : row + kProductBlock;
        for_vectors(0, count, [&](int64_t e, auto size) __attribute__((always_inline)) {
            run(row, end, e, size);
        });
    }
}

template <int kRows, int kVectors>
void multiply_tile(const S* matrix, int64_t columns, const S* const* vectors, S* const* out,
                   int64_t row) {
    V sums[kRows][kVectors];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
        for (int e = 0; e < kVectors; ++e) sums[r][e] = V{};
    }
    for_lanes(columns, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        V values[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) values[r] = access.load(matrix + (row + r) * columns + i);
#pragma GCC unroll 8
        for (int e = 0; e < kVectors; ++e) {
            const V factor = access.load(vectors[e] + i);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) sums[r][e] = fused(values[r], factor, sums[r][e]);
        }
    });
#pragma GCC unroll 8
    for (int e = 0; e < kVectors; ++e) {
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) out[e][row + r] = sum_of(sums[r][e]);
    }
}

void multiply(const S* matrix, int64_t rows, int64_t columns, const S* const* vectors,
              S* const* out, int64_t count) {
    for_products(
        rows, count,
        [&](int64_t row, int64_t end, int64_t e, auto size) __attribute__((always_inline)) {
            for (; row + kProductRows <= end; row += kProductRows) {
                multiply_tile<kProductRows, size()>(matrix, columns, vectors + e, out + e, row);
            }
            for (; row < end; ++row)
                multiply_tile<1, size()>(matrix, columns, vectors + e, out + e, row);
        });
}

// The sums stay in registers over the rows.
template <int kVectors, int kColumns, class Access>
LANES_INLINE void add_rows_tile(const S* matrix, int64_t columns, const S* const* factors,
                                S* const* out, int64_t row, int64_t end, int64_t i, Access access) {
    V sums[kVectors][kColumns];
#pragma GCC unroll 8
    for (int e = 0; e < kVectors; ++e) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) sums[e][c] = access.load(out[e] + i + c * kLanes);
    }
    for (; row < end; ++row) {
        V values[kColumns];
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c)
            values[c] = access.load(matrix + row * columns + i + c * kLanes);
#pragma GCC unroll 8
        for (int e = 0; e < kVectors; ++e) {
            const V factor = splat(factors[e][row]);
#pragma GCC unroll 8
            for (int c = 0; c < kColumns; ++c) sums[e][c] = fused(factor, values[c], sums[e][c]);
        }
    }
#pragma GCC unroll 8
    for (int e = 0; e < kVectors; ++e) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) access.store(out[e] + i + c * kLanes, sums[e][c]);
    }
}

void add_rows(const S* matrix, int64_t rows, int64_t columns, const S* const* factors,
              S* const* out, int64_t count) {
    for_products(
        rows, count,
        [&](int64_t row, int64_t end, int64_t e, auto size) __attribute__((always_inline)) {
            constexpr int kVectors = size();
            const int64_t wide = columns - columns % (kAddedColumns * kLanes);
            for (int64_t i = 0; i < wide; i += kAddedColumns * kLanes) {
                add_rows_tile<kVectors, kAddedColumns>(matrix, columns, factors + e, out + e, row,
                                                       end, i, Whole());
            }
            for_lanes(columns - wide,
                      [&](int64_t i, auto access, int) __attribute__((always_inline)) {
                          add_rows_tile<kVectors, 1>(matrix, columns, factors + e, out + e, row,
                                                     end, wide + i, access);
                      });
        });
}

}  // namespace
