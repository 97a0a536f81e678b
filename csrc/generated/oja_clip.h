// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = clamp(H + r * (y * (x - y * H)), -c, c)
struct oja_clip {
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
        static constexpr int sum_count = 2;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1;
        };
        template <typename V>
        struct Row {
            V c, y, v2, v3, r;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>& given)
                {
            return {c, y, given.r * y, -c, given.r};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(row.v2, fused(-row.y, before.H, x), before.H);
            const V t1 = (t0 < row.v3) ? row.v3 : t0;
            return {(row.c < t1) ? row.c : t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(row.v2, fused(-row.y, before.H, x), before.H);
            const V t1 = (t0 < row.v3) ? row.v3 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            const V t3 = row.v2 * t2;
            return {{fused(-row.y, t3, t2)}, so_far.x + t3, {fused(x, t2, so_far.sums.s0),
                    fused(before.H, t2, so_far.sums.s1)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            const V t0 = -(sums.s1 * row.y);
            return {fused(-(sums.s1 * row.r), row.y, fused(t0, row.r, sums.s0 * row.r)), {fused(t0,
                    row.y, sums.s0 * row.y)}};
        }
    };
    struct by_synapse {
        static constexpr int sum_count = 2;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1;
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
            f(0, a.s0...); f(1, a.s1...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {c, y, -c};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            const V t0 = fused(row.y, given.r * fused(-row.y, before.H, x), before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            return {(row.c < t1) ? row.c : t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.y * fused(-row.y, before.H, x);
            const V t1 = fused(t0, given.r, before.H);
            const V t2 = (t1 < row.v2) ? row.v2 : t1;
            const V t3 = (((row.c < t2) ? row.c : t2) == t1) ? grad.H : number<V>(0.0);
            const V t4 = t3 * given.r;
            const V t5 = row.y * t4;
            return {{fused(-row.y, t5, t3)}, so_far.x + t5, {fused(x, t4, so_far.sums.s0),
                    fused(before.H, t4, so_far.sums.s1)}, {t0 * t3}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            const V t0 = sums.s1 * row.y;
            return {(sums.s0 - t0) - t0};
        }
    };
};

// H' = clamp(H + r * E, -c, c); E' = (1 - eta) * E + eta * (y * (x - y * H))
struct oja_clip_retroactive {
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
            V c, r, v2, v3, y, v5, eta, v7, v8;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V c, V /*pre_count*/, const Coefficients<V>& given)
                {
            const V t0 = -y;
            return {c, given.r, -c, number<V>(1.0) - given.eta, y, given.eta * y, given.eta, t0,
                    given.eta * t0};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(row.r, before.E, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            return {(row.c < t1) ? row.c : t1, fused(row.v5, fused(-row.y, before.H, x), row.v3 *
                    before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(row.r, before.E, before.H);
            const V t1 = (t0 < row.v2) ? row.v2 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            const V t3 = row.v5 * grad.E;
            return {{fused(-row.y, t3, t2), fused(row.r, t2, row.v3 * grad.E)}, so_far.x + t3,
                    {fused(x, grad.E, so_far.sums.s0), fused(before.H, grad.E, so_far.sums.s1),
                    fused(before.E, t2, so_far.sums.s2), fused(before.E, grad.E, so_far.sums.s3)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {fused(-(row.eta * sums.s1), row.y, fused(row.v8, sums.s1, row.eta * sums.s0)),
                    {sums.s2, fused(row.v7 * sums.s1, row.y, row.y * sums.s0) - sums.s3}};
        }
    };
    struct by_synapse {
        static constexpr int sum_count = 2;
        static constexpr int passes_of_next = 0, passes = 0;
        static constexpr bool rests = true;
        template <typename V>
        struct Sums {
            V s0, s1;
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
            f(0, a.s0...); f(1, a.s1...);
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
            return {(row.c < t1) ? row.c : t1, fused(row.y, given.eta * fused(-row.y, before.H, x),
                    before.E * (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = fused(before.E, given.r, before.H);
            const V t1 = (t0 < row.v1) ? row.v1 : t0;
            const V t2 = (((row.c < t1) ? row.c : t1) == t0) ? grad.H : number<V>(0.0);
            const V t3 = given.eta * grad.E;
            const V t4 = row.y * t3;
            return {{fused(-row.y, t4, t2), fused(t2, given.r, (number<V>(1.0) - given.eta) *
                    grad.E)}, so_far.x + t4, {fused(x, t3, so_far.sums.s0), fused(before.H, t3,
                    so_far.sums.s1)}, {before.E * t2, fused(-before.E, grad.E, row.y * (grad.E *
                    fused(-row.y, before.H, x)))}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            const V t0 = sums.s1 * row.y;
            return {(sums.s0 - t0) - t0};
        }
    };
};

}  // namespace plastikern::generated
