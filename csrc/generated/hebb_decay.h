// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = (1 - r) * H + r * (y * x)
struct hebb_decay {
    static constexpr bool reverses = true, fades = true;
    template <typename V>
    struct States {
        V H;
    };
    template <typename V>
    struct Coefficients {
        V r;
    };
    template <class F, class... A>
    static PLASTIKERN_INLINE void states(const F& f, A&... a) {
        f(0, a.H...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void coefficients(const F& f, A&... a) {
        f(0, a.r...);
    }
    struct by_row {
        static constexpr int sum_count = 2;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1;
        };
        template <typename V>
        struct Row {
            V v0, v1, r, y, v4, v5;
        };
        template <typename V>
        struct Adjoint {
            States<V> states;
            V x;
            Sums<V> sums;
        };
        template <typename V>
        struct Finished {
            V y;
            Coefficients<V> coefficients;
        };
        template <class F, class... A>
        static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
            f(0, a.s0...); f(1, a.s1...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                given) {
            const V t0 = number<V>(1.0) - given.r;
            const V t1 = number<V>(1.0) / t0;
            return {t0, given.r * y, given.r, y, t1, fused(-t0, t1, number<V>(1.0)) * t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(row.v1, x, row.v0 * before.H)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            return {{row.v0 * grad.H}, fused(row.v1, grad.H, so_far.x), {fused(x, grad.H,
                    so_far.sums.s0), fused(before.H, grad.H, so_far.sums.s1)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.r * sums.s0, {fused(row.y, sums.s0, -sums.s1)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(-row.v1, x, after.H);
            return {fused(row.v4, t0, row.v5 * t0)};
        }
    };
    struct by_synapse {
        static constexpr int sum_count = 1;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0;
        };
        template <typename V>
        struct Row {
            V y;
        };
        template <typename V>
        struct Adjoint {
            States<V> states;
            V x;
            Sums<V> sums;
            Coefficients<V> coefficients;
        };
        template <typename V>
        struct Finished {
            V y;
        };
        template <class F, class... A>
        static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
            f(0, a.s0...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            return {fused(row.y * x, given.r, before.H * (number<V>(1.0) - given.r))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = given.r * grad.H;
            return {{(number<V>(1.0) - given.r) * grad.H}, fused(row.y, t0, so_far.x), {fused(x, t0,
                    so_far.sums.s0)}, {fused(-before.H, grad.H, (row.y * x) * grad.H)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& given) {
            const V t0 = number<V>(1.0) - given.r;
            const V t1 = number<V>(1.0) / t0;
            const V t2 = t1 * fused(-(row.y * x), given.r, after.H);
            return {fused(t2, fused(-t1, t0, number<V>(1.0)), t2)};
        }
    };
};

// H' = (1 - r) * H + r * E; E' = (1 - eta) * E + eta * (y * x)
struct hebb_decay_retroactive {
    static constexpr bool reverses = false, fades = false;
    template <typename V>
    struct States {
        V H, E;
    };
    template <typename V>
    struct Coefficients {
        V r, eta;
    };
    template <class F, class... A>
    static PLASTIKERN_INLINE void states(const F& f, A&... a) {
        f(0, a.H...); f(1, a.E...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void coefficients(const F& f, A&... a) {
        f(0, a.r...); f(1, a.eta...);
    }
    struct by_row {
        static constexpr int sum_count = 4;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1, s2, s3;
        };
        template <typename V>
        struct Row {
            V r, v1, v2, v3, eta, y;
        };
        template <typename V>
        struct Adjoint {
            States<V> states;
            V x;
            Sums<V> sums;
        };
        template <typename V>
        struct Finished {
            V y;
            Coefficients<V> coefficients;
        };
        template <class F, class... A>
        static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
            f(0, a.s0...); f(1, a.s1...); f(2, a.s2...); f(3, a.s3...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                given) {
            return {given.r, number<V>(1.0) - given.r, number<V>(1.0) - given.eta, given.eta * y,
                    given.eta, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(row.r, before.E, row.v1 * before.H), fused(row.v3, x, row.v2 * before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            return {{row.v1 * grad.H, fused(row.r, grad.H, row.v2 * grad.E)}, fused(row.v3, grad.E,
                    so_far.x), {fused(x, grad.E, so_far.sums.s0), fused(before.E, grad.H,
                    so_far.sums.s1), fused(before.H, grad.H, so_far.sums.s2), fused(before.E,
                    grad.E, so_far.sums.s3)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.eta * sums.s0, {sums.s1 - sums.s2, fused(row.y, sums.s0, -sums.s3)}};
        }
    };
    struct by_synapse {
        static constexpr int sum_count = 1;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0;
        };
        template <typename V>
        struct Row {
            V y;
        };
        template <typename V>
        struct Adjoint {
            States<V> states;
            V x;
            Sums<V> sums;
            Coefficients<V> coefficients;
        };
        template <typename V>
        struct Finished {
            V y;
        };
        template <class F, class... A>
        static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
            f(0, a.s0...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            return {fused(before.E, given.r, before.H * (number<V>(1.0) - given.r)), fused(row.y *
                    x, given.eta, before.E * (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = given.eta * grad.E;
            return {{(number<V>(1.0) - given.r) * grad.H, fused(given.r, grad.H, (number<V>(1.0) -
                    given.eta) * grad.E)}, fused(row.y, t0, so_far.x), {fused(x, t0,
                    so_far.sums.s0)}, {fused(-before.H, grad.H, before.E * grad.H), fused(-before.E,
                    grad.E, (row.y * x) * grad.E)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
    };
};

}  // namespace plastikern::generated
