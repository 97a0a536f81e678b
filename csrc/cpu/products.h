// Products of a matrix, whose rows lie next to each other, with a few vectors at once: every value of the matrix is
// read once for all of them.
#pragma once

#include "lanes.h"

namespace {

// As many sums as fit into the registers beside what they are summed from.
constexpr int kProductRows = 2, kProductVectors = 6;
constexpr int64_t kAddedRows = 8;

template <int kRows, int kVectors>
void multiply_tile(const S* matrix, int64_t columns, const S* const* vectors, S* const* out, int64_t row) {
    V sums[kRows][kVectors] = {};
    for_lanes(columns, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        V values[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) values[r] = access.load(matrix + (row + r) * columns + i);
#pragma GCC unroll 8
        for (int e = 0; e < kVectors; ++e) {
            const V factor = access.load(vectors[e] + i);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) sums[r][e] += values[r] * factor;
        }
    });
    for (int e = 0; e < kVectors; ++e) {
        for (int r = 0; r < kRows; ++r) out[e][row + r] = sum_of(sums[r][e]);
    }
}

template <int kVectors>
void multiply_vectors(const S* matrix, int64_t rows, int64_t columns, const S* const* vectors, S* const* out) {
    int64_t row = 0;
    for (; row + kProductRows <= rows; row += kProductRows) {
        multiply_tile<kProductRows, kVectors>(matrix, columns, vectors, out, row);
    }
    for (; row < rows; ++row) multiply_tile<1, kVectors>(matrix, columns, vectors, out, row);
}

// Rows in blocks that stay in the first cache while all vectors pass over them.
void multiply(const S* matrix, int64_t rows, int64_t columns, const S* const* vectors, S* const* out, int64_t count) {
    constexpr void (*tails[kProductVectors])(const S*, int64_t, int64_t, const S* const*, S* const*) = {
        nullptr,
        multiply_vectors<1>,
        multiply_vectors<2>,
        multiply_vectors<3>,
        multiply_vectors<4>,
        multiply_vectors<5>};
    constexpr int64_t kBlock = 8;
    for (int64_t row = 0; row < rows; row += kBlock) {
        const int64_t here = rows - row < kBlock ? rows - row : kBlock;
        S* shifted[kProductVectors];
        for (int64_t e = 0; e < count; e += kProductVectors) {
            const int64_t left = count - e < kProductVectors ? count - e : kProductVectors;
            for (int64_t v = 0; v < left; ++v) shifted[v] = out[e + v] + row;
            const auto tile = left == kProductVectors ? multiply_vectors<kProductVectors> : tails[left];
            tile(matrix + row * columns, here, columns, vectors + e, shifted);
        }
    }
}

template <int kRows>
void add_rows_tile(const S* matrix, int64_t columns, const S* const* factors, S* const* out, int64_t count,
                   int64_t row) {
    for_lanes(columns, [&](int64_t i, auto access, int) __attribute__((always_inline)) {
        V values[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) values[r] = access.load(matrix + (row + r) * columns + i);
        for (int64_t e = 0; e < count; ++e) {
            V sum = access.load(out[e] + i);
#pragma GCC unroll 8
            for (int r = 0; r < kRows; ++r) sum += splat(factors[e][row + r]) * values[r];
            access.store(out[e] + i, sum);
        }
    });
}

void add_rows(const S* matrix, int64_t rows, int64_t columns, const S* const* factors, S* const* out, int64_t count) {
    int64_t row = 0;
    for (; row + kAddedRows <= rows; row += kAddedRows) {
        add_rows_tile<kAddedRows>(matrix, columns, factors, out, count, row);
    }
    for (; row < rows; ++row) add_rows_tile<1>(matrix, columns, factors, out, count, row);
}

}  // namespace
