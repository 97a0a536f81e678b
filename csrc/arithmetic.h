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

// Integers as wide as the numbers of a vector.
template <typename V>
using Integers = decltype(V{} < V{});

// A polynomial of x, from its highest coefficient down.
template <typename V>
PLASTIKERN_INLINE V horner(V, V sum) {
    return sum;
}
template <typename V, typename... More>
PLASTIKERN_INLINE V horner(V x, V sum, double next, More... more) {
    return horner(x, fused(sum, x, number<V>(next)), more...);
}

template <typename V>
PLASTIKERN_INLINE V size_of(V x) {
    return x < 0 ? -x : x;
}

// e^x = 2^n e^r by x = n ln 2 + r, |r| <= ln 2 / 2: n, and e^r by its Taylor series to r^7
// (remainder below 6e-9).
template <typename V>
struct Exponential {
    V n, rest;

    explicit PLASTIKERN_INLINE Exponential(V x) {
        const V round = number<V>(12582912.0);  // 1.5 * 2^23: adding it rounds to an integer
        n = fused(x, number<V>(1.44269504), round) - round;
        // ln 2 in two parts
        const V r = fused(n, number<V>(2.12194440e-4), fused(n, number<V>(-0.693359375), x));
        rest = horner(r, number<V>(1.0 / 5040), 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0,
                      1.0);
    }
};
// 2^n for whole numbers from -126 to 127.
template <typename V>
PLASTIKERN_INLINE V power_of_two(V n) {
    return (V)((__builtin_convertvector(n, Integers<V>) + 127) << 23);
}
// Where neither 0 nor infinity matters: between e^-87 and e^88.
template <typename V>
PLASTIKERN_INLINE V exponential(V x) {
    x = x < -87.0f ? V{} - 87.0f : x;
    x = x > 88.0f ? V{} + 88.0f : x;
    const Exponential<V> parts(x);
    return parts.rest * power_of_two(parts.n);
}
template <typename V>
PLASTIKERN_INLINE V exponential_of_any(V x) {
    x = x < -104.0f ? V{} - 104.0f : x;
    x = x > 89.0f ? V{} + 89.0f : x;
    const Exponential<V> parts(x);
    // The power in two factors: numbers below 2^-126 and the largest have none that a number holds.
    const V round = number<V>(12582912.0), half = fused(parts.n, number<V>(0.5), round) - round;
    return parts.rest * power_of_two(half) * power_of_two(parts.n - half);
}

// Near zero an odd polynomial (fitted for the smallest relative error on |x| < 0.625), else
// 1 - 2 / (e^2|x| + 1). Of e^2|x| = 2^n 2^r, |r| <= 1/2, n is put into the bits of 2^r, whose
// polynomial is fitted so that the error of the whole is smallest: where e^2|x| is large, little of
// its own is left. NaN takes the first way, and what is beyond 10 is 1.
template <typename V>
PLASTIKERN_INLINE V hyperbolic_tangent(V x) {
    typedef Integers<V> Int;
    const Int sign = (Int)x & (Int{} + INT32_MIN);
    const V size = (V)((Int)x ^ sign), most = size > 10.0f ? V{} + 10.0f : size;
    const V round = number<V>(12582912.0);  // as above
    const V n = fused(most, number<V>(2.88539008), round);
    const V r = fused(most, number<V>(2.88539008), round - n);
    const V rest = horner(r, number<V>(1.329340576e-3), 9.674803049e-3, 5.550642529e-2,
                          2.402214201e-1, 6.931470582e-1, 1.000000079);
    const V far = 1.0f - 2.0f / ((V)((Int)rest + ((Int)n << 23)) + 1.0f);
    const V s = x * x;
    const V p = horner(s, number<V>(-5.603908450e-3), 2.055171372e-2, -5.371410532e-2,
                       1.333115278e-1, -3.333327208e-1);
    return size >= 0.625f ? (V)((Int)far | sign) : fused(x, s * p, x);
}

// ln x by x = 2^n (1 + f), 1 + f between sqrt(1/2) and sqrt(2), and ln(1 + f) = f - f^2/2 + s
// (f^2/2 + 2 s^2 (1/3 + s^2/5 + ...)) with s = f / (2 + f).
template <typename V>
PLASTIKERN_INLINE V logarithm(V x) {
    typedef Integers<V> Int;
    const Int below = x < 1.17549435e-38f;  // without a leading 1
    const V scaled = below ? x * 8388608.0f : x;
    const Int bits = (Int)scaled, power = (bits - 0x3f3504f3) >> 23;
    const V n = __builtin_convertvector(power, V) - (below ? V{} + 23.0f : V{});
    const V f = (V)(bits - (power << 23)) - 1.0f, s = f / (f + 2.0f), z = s * s,
            half = 0.5f * f * f;
    const V rest = z * horner(z, number<V>(2.0 / 9), 2.0 / 7, 2.0 / 5, 2.0 / 3);
    // ln 2 in two parts
    const V low = fused(n, number<V>(-2.12194440e-4), fused(s, half + rest, -half));
    V found = fused(n, number<V>(0.693359375), low + f);
    found = x > 3.40282347e38f ? x : found;
    found = x == 0.0f ? V{} - __builtin_inff() : found;
    return x >= 0.0f ? found : V{} + __builtin_nanf("");
}

// ln(1 + x): what rounding takes from 1 + x is added again.
template <typename V>
PLASTIKERN_INLINE V logarithm_of_one_and(V x) {
    const V all = x + 1.0f, found = logarithm(all) + (x - (all - 1.0f)) / all;
    return all == 0.0f || all > 3.40282347e38f ? logarithm(all) : found;
}

// x^y = e^(y ln x), between in double precision: an error of ln x would be y times as large. `base`
// is |x|, `exponent` y.
template <typename V, typename D>
PLASTIKERN_INLINE V power_by(V x, V y, D base, D exponent) {
    typedef Integers<D> Int;
    const Int bits = (Int)base, n = (bits - 0x3fe6a09e667f3bcd) >> 52;
    const D f = (D)(bits - (n << 52)) - 1.0, s = f / (f + 2.0), z = s * s;
    const D ln = s * horner(z, number<D>(2.0 / 17), 2.0 / 15, 2.0 / 13, 2.0 / 11, 2.0 / 9, 2.0 / 7,
                            2.0 / 5, 2.0 / 3, 2.0) +
                 __builtin_convertvector(n, D) * 0.6931471805599453;
    D product = exponent * ln;
    product = product < -200.0 ? D{} - 200.0 : product;
    product = product > 200.0 ? D{} + 200.0 : product;
    const D round = number<D>(6755399441055744.0);  // 1.5 * 2^52
    const D whole = product * 1.4426950408889634 + round - round;
    const D r = product - whole * 0.6931471805599453;
    const D rest = horner(r, number<D>(1.0 / 39916800), 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                          1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0);
    const D scale = (D)((__builtin_convertvector(whole, Int) + 1023) << 52);
    V found = __builtin_convertvector(rest * scale, V);
    const V zero = {}, one = number<V>(1), infinite = zero + __builtin_inff();
    found = x == 0.0f ? (y > 0.0f ? zero : infinite) : found;
    found = size_of(x) == infinite ? (y > 0.0f ? infinite : zero) : found;
    found = size_of(x) == 1.0f || y == 0.0f ? one : found;
    const auto whole_power = [&](V of) {
        const auto cut = __builtin_convertvector(of, Integers<V>);
        return size_of(of) >= 8388608.0f || __builtin_convertvector(cut, V) == of;
    };
    const Integers<V> negative = (Integers<V>)x < 0, whole_y = whole_power(y);
    found = negative && whole_y && !whole_power(0.5f * y) ? -found : found;
    // Of a negative number there are whole powers only.
    found = x < 0.0f && x > -infinite && !whole_y ? zero + __builtin_nanf("") : found;
    return x == x && y == y ? found : (y == 0.0f || x == 1.0f ? one : x + y);
}

template <typename V>
PLASTIKERN_INLINE V power(V x, V y) {
    typedef double D __attribute__((vector_size(2 * sizeof(V))));
    return power_by(x, y, __builtin_convertvector(size_of(x), D), __builtin_convertvector(y, D));
}

// The square root of the instruction set.
template <typename V>
PLASTIKERN_INLINE V root(V x) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64 && single<V>) return (V)_mm512_sqrt_ps((__m512)x);
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 32 && single<V>) return (V)_mm256_sqrt_ps((__m256)x);
    if constexpr (sizeof(V) == 32 && !single<V>) return (V)_mm256_sqrt_pd((__m256d)x);
#endif
    return by_lane(x, [](auto lane) { return std::sqrt(lane); });
}

#endif

template <typename V>
PLASTIKERN_INLINE V exp(V x) {
    if constexpr (single<V>)
        return exponential_of_any(x);
    else
        return by_lane(x, [](auto lane) { return std::exp(lane); });
}
template <typename V>
PLASTIKERN_INLINE V sigmoid(V x) {
    if constexpr (single<V>)
        return 1.0f / (1.0f + exponential(-x));
    else
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
    if constexpr (single<V>)
        return logarithm(x);
    else
        return by_lane(x, [](auto lane) { return std::log(lane); });
}
template <typename V>
PLASTIKERN_INLINE V log1p(V x) {
    if constexpr (single<V>)
        return logarithm_of_one_and(x);
    else
        return by_lane(x, [](auto lane) { return std::log1p(lane); });
}
template <typename V>
PLASTIKERN_INLINE V sqrt(V x) {
    if constexpr (std::is_arithmetic_v<V>)
        return std::sqrt(x);
    else
        return root(x);
}
template <typename V>
PLASTIKERN_INLINE V pow(V x, V y) {
    if constexpr (std::is_arithmetic_v<V>) {
        return std::pow(x, y);
    } else if constexpr (single<V>) {
        return power(x, y);
    } else {
        for (unsigned lane = 0; lane < sizeof x / sizeof x[0]; ++lane)
            x[lane] = std::pow(x[lane], y[lane]);
        return x;
    }
}

}  // namespace plastikern::arithmetic
