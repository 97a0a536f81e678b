// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = clamp(H + r * (y * x), -c, c)
struct hebb_clip {
    static constexpr bool reverses = false, fades = false;
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
        static constexpr int sum_count = 1;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0;
        };
        template <typename V>
        struct Row {
            V c, v1, v2, r, y;
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
            f(0, a.s0...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>& given)
                {
            return {c, given.r * y, -c, given.r, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(row.v1, x, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            return {(row.c < t1) ? row.c : t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(row.v1, x, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            return {{t2}, fused(row.v1, t2, so_far.x), {fused(x, t2, so_far.sums.s0)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.r * sums.s0, {row.y * sums.s0}};
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
            V c, y, v2;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {c, y, -c};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            const V t0 = fused(row.y * x, given.r, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            return {(row.c < t1) ? row.c : t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.y * x;
            const V t1 = fused(t0, given.r, before.H);
            const V t2 = (t1 < row.v2) ? row.v2 : t1;
            const V t3 = (((row.c < t2) ? row.c : t2) == t1) ? grad.H : number<V>(0.0);
            const V t4 = t3 * given.r;
            return {{t3}, fused(row.y, t4, so_far.x), {fused(x, t4, so_far.sums.s0)}, {t0 * t3}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
    };
};

// H' = clamp(H + r * E, -c, c); E' = (1 - eta) * E + eta * (y * x)
struct hebb_clip_retroactive {
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
        static constexpr int sum_count = 3;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1, s2;
        };
        template <typename V>
        struct Row {
            V c, r, v2, v3, v4, eta, y;
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
            f(0, a.s0...); f(1, a.s1...); f(2, a.s2...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>& given)
                {
            return {c, given.r, -c, number<V>(1.0) - given.eta, given.eta * y, given.eta, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(row.r, before.E, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            return {(row.c < t1) ? row.c : t1, fused(row.v4, x, row.v3 * before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(row.r, before.E, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            return {{t2, fused(row.r, t2, row.v3 * grad.E)}, fused(row.v4, grad.E, so_far.x),
                    {fused(x, grad.E, so_far.sums.s0), fused(before.E, t2, so_far.sums.s1),
                    fused(before.E, grad.E, so_far.sums.s2)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.eta * sums.s0, {sums.s1, fused(row.y, sums.s0, -sums.s2)}};
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
            V c, v1, y;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {c, -c, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            const V t0 = fused(before.E, given.r, before.H);
            const V t1 = (t0 < row.v1) ? row.v1 : t0;
            return {(row.c < t1) ? row.c : t1, fused(row.y * x, given.eta, before.E *
                    (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(before.E, given.r, before.H);
            const V t1 = (t0 < row.v1) ? row.v1 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            const V t3 = given.eta * grad.E;
            return {{t2, fused(t2, given.r, (number<V>(1.0) - given.eta) * grad.E)}, fused(row.y,
                    t3, so_far.x), {fused(x, t3, so_far.sums.s0)}, {before.E * t2, fused(-before.E,
                    grad.E, (row.y * x) * grad.E)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
    };
};

}  // namespace plastikern::generated
