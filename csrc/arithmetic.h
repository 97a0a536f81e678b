// The words of which printed arithmetic is made (plastikern/rules/printers.py), for one number and
// for vectors of lanes. Files that run it are compiled without contraction of their own: which
// products are fused with a sum is fixed by the text.
#pragma once

#include <cmath>
#include <type_traits>
#if defined(__AVX2__) && !defined(__CUDACC__)
#include <immintrin.h>
#endif

#if defined(__CUDACC__)
#define PLASTIKERN_INLINE __host__ __device__ __forceinline__
#else
#define PLASTIKERN_INLINE inline __attribute__((always_inline))
#endif

namespace plastikern::arithmetic {

using std::exp, std::log, std::log1p, std::pow, std::sqrt, std::tanh;

// A constant in the type of the values beside it.
template <typename V>
PLASTIKERN_INLINE V number(double value) {
    if constexpr (std::is_arithmetic_v<V>) {
        return static_cast<V>(value);
    } else {
        using S = std::remove_cvref_t<decltype(V{}[0])>;
        return V{} + static_cast<S>(value);
    }
}

template <typename V>
constexpr bool single = sizeof(V{}[0]) == sizeof(float);

// a b + c, rounded once: where the text says so, and nowhere else. Processors that have no such
// instruction round twice.
template <typename V>
PLASTIKERN_INLINE V fused(V a, V b, V c) {
#if defined(__CUDACC__) || defined(__FP_FAST_FMA)
    if constexpr (std::is_arithmetic_v<V>) {
        return std::fma(a, b, c);
#if defined(__FMA__)
    } else if constexpr (sizeof(V) == 32 && single<V>) {
        return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
    } else if constexpr (sizeof(V) == 32) {
        return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#if defined(__AVX512F__)
    } else if constexpr (sizeof(V) == 64 && single<V>) {
        return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
#endif
    } else {
        V found = a;
        for (unsigned lane = 0; lane < sizeof a / sizeof a[0]; ++lane)
            found[lane] = std::fma(a[lane], b[lane], c[lane]);
        return found;
    }
#else
    return a * b + c;
#endif
}

template <typename V>
PLASTIKERN_INLINE V sigmoid(V x) {
    return 1 / (1 + exp(-x));
}

}  // namespace plastikern::arithmetic
