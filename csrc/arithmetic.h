// The words of which printed arithmetic is made (plastikern/rules/printers.py), for one number and
// for vectors of lanes. Files that run it are compiled without contraction of their own: which
// products are fused with a sum is fixed by the text.
#pragma once

#include <cmath>
#include <cstdint>
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

// A pass over the synapses of a row before the last one, by its place.
template <int kPlace>
using Pass = std::integral_constant<int, kPlace>;

// Vectors of single precision.
template <typename V>
constexpr bool single = false;
template <typename V>
    requires requires(V v) { v[0]; }
constexpr bool single<V> = sizeof(V{}[0]) == sizeof(float);

// A function of the C library, lane by lane.
template <typename V, class F>
PLASTIKERN_INLINE V by_lane(V x, const F& function) {
    if constexpr (std::is_arithmetic_v<V>) {
        return function(x);
    } else {
        for (unsigned lane = 0; lane < sizeof x / sizeof x[0]; ++lane) x[lane] = function(x[lane]);
        return x;
    }
}

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

#if !defined(__CUDACC__)
// Of vectors, in single precision to about two units in the last place. In double precision, where
// the kernels serve as proof and not for speed, they are those of the C library.

// A polynomial of x, from its highest coefficient down.
template <typename V>
PLASTIKERN_INLINE V horner(V, V sum) {
    return sum;
}
template <typename V, typename... More>
PLASTIKERN_INLINE V horner(V x, V sum, float next, More... more) {
    return horner(x, fused(sum, x, number<V>(next)), more...);
}

// e^x by x = n ln 2 + r, |r| <= ln 2 / 2, and the Taylor series of e^r to r^7 (remainder below
// 6e-9).
template <typename V>
PLASTIKERN_INLINE V exponential(V x) {
    typedef int32_t Int __attribute__((vector_size(sizeof(V))));
    x = x < -87.0f ? V{} - 87.0f : x;
    x = x > 88.0f ? V{} + 88.0f : x;
    const V round = V{} + 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    V n = fused(x, number<V>(1.44269504f), round) - round;
    // ln 2 in two parts
    V r = fused(n, number<V>(2.12194440e-4f), fused(n, number<V>(-0.693359375f), x));
    const V p = horner(r, number<V>(1.0f / 5040), 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f,
                       1.0f, 1.0f);
    Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
    return p * (V)exponent;
}

// Near zero an odd polynomial (fitted for the smallest relative error on |x| < 0.625), else 1 - 2 /
// (e^2|x| + 1).
template <typename V>
PLASTIKERN_INLINE V hyperbolic_tangent(V x) {
    V size = x < 0.0f ? -x : x;
    V far = 1.0f - 2.0f / (exponential(size + size) + 1.0f);
    far = x < 0.0f ? -far : far;
    V s = x * x;
    const V p = horner(s, number<V>(-5.603908450e-3f), 2.055171372e-2f, -5.371410532e-2f,
                       1.333115278e-1f, -3.333327208e-1f);
    return size < 0.625f ? fused(x, s * p, x) : far;
}

#endif

template <typename V>
PLASTIKERN_INLINE V exp(V x) {
    if constexpr (single<V>)
        return exponential(x);
    else
        return by_lane(x, [](auto lane) { return std::exp(lane); });
}
template <typename V>
PLASTIKERN_INLINE V sigmoid(V x) {
    return number<V>(1) / (number<V>(1) + exp(-x));
}
template <typename V>
PLASTIKERN_INLINE V tanh(V x) {
    if constexpr (single<V>)
        return hyperbolic_tangent(x);
    else
        return by_lane(x, [](auto lane) { return std::tanh(lane); });
}
template <typename V>
PLASTIKERN_INLINE V log(V x) {
    return by_lane(x, [](auto lane) { return std::log(lane); });
}
template <typename V>
PLASTIKERN_INLINE V log1p(V x) {
    return by_lane(x, [](auto lane) { return std::log1p(lane); });
}
template <typename V>
PLASTIKERN_INLINE V sqrt(V x) {
    return by_lane(x, [](auto lane) { return std::sqrt(lane); });
}
template <typename V>
PLASTIKERN_INLINE V pow(V x, V y) {
    if constexpr (std::is_arithmetic_v<V>) {
        return std::pow(x, y);
    } else {
        for (unsigned lane = 0; lane < sizeof x / sizeof x[0]; ++lane)
            x[lane] = std::pow(x[lane], y[lane]);
        return x;
    }
}

}  // namespace plastikern::arithmetic
