// Vectors of one instruction set: PLASTIKERN_SCALAR lanes, as wide as the flags of this object file
// allow.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "../arithmetic.h"

// Everything in a kernel object stays inside it, so that no other object can be linked to code for
// its instruction set.
namespace {

using plastikern::arithmetic::fused, plastikern::arithmetic::number;

using S = PLASTIKERN_SCALAR;
#if defined(__AVX512F__)
constexpr int64_t kLanes = 64 / sizeof(S);
#elif defined(__AVX2__)
constexpr int64_t kLanes = 32 / sizeof(S);
#else
constexpr int64_t kLanes = 16 / sizeof(S);
#endif
typedef S V __attribute__((vector_size(kLanes * sizeof(S))));

#define LANES_INLINE inline __attribute__((always_inline))

LANES_INLINE V splat(S value) {
    return value - V{};
}  // x - 0 is x for every x; 0 + x would have to be computed

// A whole vector, or its first `count` lanes with zeros behind them; `choose` takes the lanes
// beyond from elsewhere. Whole is a constant where it matters.
struct Whole {
    static LANES_INLINE V load(const S* from) {
        V value;
        std::memcpy(&value, from, sizeof value);
        return value;
    }
    static LANES_INLINE void store(S* to, V value) { std::memcpy(to, &value, sizeof value); }
    static LANES_INLINE V choose(V inside, V /*outside*/) { return inside; }
};

#if defined(__AVX512F__)
struct Part {
    unsigned mask;
    explicit Part(int64_t count) : mask((1u << count) - 1) {}
    LANES_INLINE V load(const float* from) const { return (V)_mm512_maskz_loadu_ps(mask, from); }
    LANES_INLINE V load(const double* from) const { return (V)_mm512_maskz_loadu_pd(mask, from); }
    LANES_INLINE void store(float* to, V value) const {
        _mm512_mask_storeu_ps(to, mask, (__m512)value);
    }
    LANES_INLINE void store(double* to, V value) const {
        _mm512_mask_storeu_pd(to, mask, (__m512d)value);
    }
    LANES_INLINE V choose(V inside, V outside) const {
        if constexpr (std::is_same_v<S, float>)
            return (V)_mm512_mask_mov_ps((__m512)outside, mask, (__m512)inside);
        else
            return (V)_mm512_mask_mov_pd((__m512d)outside, mask, (__m512d)inside);
    }
};
#elif defined(__AVX2__)
alignas(64) constexpr int32_t kLaneBits[16] = {-1, -1, -1, -1, -1, -1, -1, -1,
                                               0,  0,  0,  0,  0,  0,  0,  0};

struct Part {
    __m256i mask;
    int64_t count;
    explicit LANES_INLINE Part(int64_t lanes)
        : mask(_mm256_loadu_si256((const __m256i*)(kLaneBits + 8 - lanes * (sizeof(S) / 4)))),
          count(lanes) {}
    LANES_INLINE V load(const float* from) const { return (V)_mm256_maskload_ps(from, mask); }
    LANES_INLINE V load(const double* from) const { return (V)_mm256_maskload_pd(from, mask); }
    // A masked store costs a dozen plain ones on some processors.
    LANES_INLINE void store(float* to, V value) const {
        __m128 rest = _mm256_castps256_ps128((__m256)value);
        if (count & 4)
            _mm_storeu_ps(to, rest), to += 4, rest = _mm256_extractf128_ps((__m256)value, 1);
        if (count & 2) _mm_storel_pi((__m64*)to, rest), to += 2, rest = _mm_movehl_ps(rest, rest);
        if (count & 1) _mm_store_ss(to, rest);
    }
    LANES_INLINE void store(double* to, V value) const {
        __m128d rest = _mm256_castpd256_pd128((__m256d)value);
        if (count & 2)
            _mm_storeu_pd(to, rest), to += 2, rest = _mm256_extractf128_pd((__m256d)value, 1);
        if (count & 1) _mm_store_sd(to, rest);
    }
    LANES_INLINE V choose(V inside, V outside) const {
        return (V)_mm256_blendv_epi8((__m256i)outside, (__m256i)inside, mask);
    }
};
#else
struct Part {
    int64_t count;
    explicit Part(int64_t lanes) : count(lanes) {}
    LANES_INLINE V load(const S* from) const {
        V value{};
        for (int64_t lane = 0; lane < count; ++lane) value[lane] = from[lane];
        return value;
    }
    LANES_INLINE void store(S* to, V value) const {
        for (int64_t lane = 0; lane < count; ++lane) to[lane] = value[lane];
    }
    LANES_INLINE V choose(V inside, V outside) const {
        for (int64_t lane = count; lane < kLanes; ++lane) inside[lane] = outside[lane];
        return inside;
    }
};
#endif

// Calls body(index, access, chain) over all columns: whole vectors, kChains at a time, then the
// rest of the row. Sums that are kept apart by `chain` do not wait for each other.
template <int kChains = 1, typename Body>
LANES_INLINE void for_lanes(int64_t columns, Body body) {
    int64_t i = 0;
    for (; i + kChains * kLanes <= columns; i += kChains * kLanes) {
#pragma GCC unroll 8
        for (int chain = 0; chain < kChains; ++chain) body(i + chain * kLanes, Whole(), chain);
    }
    if constexpr (kChains > 1) {
        for (; i + kLanes <= columns; i += kLanes) body(i, Whole(), 0);
    }
    if (i < columns) body(i, Part(columns - i), 0);
}

LANES_INLINE S sum_of(V value) {
#if defined(__AVX512F__)
    typedef float Half __attribute__((vector_size(32)));
    Half halves[2];
    std::memcpy(halves, &value, sizeof halves);
    const Half half = halves[0] + halves[1];
#elif defined(__AVX2__)
    [[maybe_unused]] const V half = value;
#endif
#if defined(__AVX2__)
    if constexpr (std::is_same_v<S, float>) {
        const __m256 all = (__m256)half;
        const __m128 four = _mm_add_ps(_mm256_castps256_ps128(all), _mm256_extractf128_ps(all, 1));
        const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
    }
#endif
    S total = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) total += value[lane];
    return total;
}

}  // namespace
