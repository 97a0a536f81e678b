// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = clamp(H + (r * (y * x)) * (1 - sign(r * (y * x)) * H), -1, 1)
struct hebb_soft_clip {
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
            V v0, r, y;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                given) {
            return {given.r * y, given.r, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = row.v0 * x;
            const V t1 = fused(fused(-((number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 <
                    number<V>(0.0)) ? number<V>(-1.0) : number<V>(0.0))), before.H, number<V>(1.0)),
                    t0, before.H);
            const V t2 = (t1 < number<V>(-1.0)) ? number<V>(-1.0) : t1;
            return {(number<V>(1.0) < t2) ? number<V>(1.0) : t2};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.v0 * x;
            const V t1 = (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 < number<V>(0.0)) ?
                    number<V>(-1.0) : number<V>(0.0));
            const V t2 = t1 * before.H;
            const V t3 = fused(number<V>(1.0) - t2, t0, before.H);
            const V t4 = (t3 < number<V>(-1.0)) ? number<V>(-1.0) : t3;
            const V t5 = (((number<V>(1.0) < t4) ? number<V>(1.0) : t4) == t3) ? grad.H :
                    number<V>(0.0);
            const V t6 = t2 * t5;
            return {{fused(-(t1 * t5), t0, t5)}, so_far.x + fused(-row.v0, t6, row.v0 * t5),
                    {so_far.sums.s0 + fused(-x, t6, x * t5)}};
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
            const V t0 = (row.y * x) * given.r;
            const V t1 = fused(fused(-before.H, (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 <
                    number<V>(0.0)) ? number<V>(-1.0) : number<V>(0.0)), number<V>(1.0)), t0,
                    before.H);
            const V t2 = (t1 < number<V>(-1.0)) ? number<V>(-1.0) : t1;
            return {(number<V>(1.0) < t2) ? number<V>(1.0) : t2};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.y * x;
            const V t1 = t0 * given.r;
            const V t2 = (number<V>(0.0) < t1) ? number<V>(1.0) : ((t1 < number<V>(0.0)) ?
                    number<V>(-1.0) : number<V>(0.0));
            const V t3 = before.H * t2;
            const V t4 = number<V>(1.0) - t3;
            const V t5 = fused(t4, t1, before.H);
            const V t6 = (t5 < number<V>(-1.0)) ? number<V>(-1.0) : t5;
            const V t7 = (((number<V>(1.0) < t6) ? number<V>(1.0) : t6) == t5) ? grad.H :
                    number<V>(0.0);
            const V t8 = t7 * given.r;
            const V t9 = t8 * t3;
            return {{fused(-(t7 * t1), t2, t7)}, so_far.x + fused(-row.y, t9, row.y * t8),
                    {so_far.sums.s0 + fused(-x, t9, x * t8)}, {(t0 * t4) * t7}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
    };
};

// H' = clamp(H + (r * E) * (1 - sign(r * E) * H), -1, 1); E' = (1 - eta) * E + eta * (y * x)
struct hebb_soft_clip_retroactive {
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
            V r, v1, v2, eta, y;
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
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                given) {
            return {given.r, number<V>(1.0) - given.eta, given.eta * y, given.eta, y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = row.r * before.E;
            const V t1 = fused(fused(-before.H, (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 <
                    number<V>(0.0)) ? number<V>(-1.0) : number<V>(0.0)), number<V>(1.0)), t0,
                    before.H);
            const V t2 = (t1 < number<V>(-1.0)) ? number<V>(-1.0) : t1;
            return {(number<V>(1.0) < t2) ? number<V>(1.0) : t2, fused(row.v2, x, row.v1 *
                    before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.r * before.E;
            const V t1 = (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 < number<V>(0.0)) ?
                    number<V>(-1.0) : number<V>(0.0));
            const V t2 = before.H * t1;
            const V t3 = number<V>(1.0) - t2;
            const V t4 = fused(t3, t0, before.H);
            const V t5 = (t4 < number<V>(-1.0)) ? number<V>(-1.0) : t4;
            const V t6 = (((number<V>(1.0) < t5) ? number<V>(1.0) : t5) == t4) ? grad.H :
                    number<V>(0.0);
            return {{fused(-(t1 * t6), t0, t6), fused(row.r, t3 * t6, row.v1 * grad.E)},
                    fused(row.v2, grad.E, so_far.x), {fused(x, grad.E, so_far.sums.s0),
                    so_far.sums.s1 + fused(-t6, before.E * t2, before.E * t6), fused(before.E,
                    grad.E, so_far.sums.s2)}};
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
            const V t0 = before.E * given.r;
            const V t1 = fused(t0, fused(-before.H, (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 <
                    number<V>(0.0)) ? number<V>(-1.0) : number<V>(0.0)), number<V>(1.0)), before.H);
            const V t2 = (t1 < number<V>(-1.0)) ? number<V>(-1.0) : t1;
            return {(number<V>(1.0) < t2) ? number<V>(1.0) : t2, fused(row.y * x, given.eta,
                    before.E * (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = before.E * given.r;
            const V t1 = (number<V>(0.0) < t0) ? number<V>(1.0) : ((t0 < number<V>(0.0)) ?
                    number<V>(-1.0) : number<V>(0.0));
            const V t2 = fused(-before.H, t1, number<V>(1.0));
            const V t3 = fused(t0, t2, before.H);
            const V t4 = (t3 < number<V>(-1.0)) ? number<V>(-1.0) : t3;
            const V t5 = (((number<V>(1.0) < t4) ? number<V>(1.0) : t4) == t3) ? grad.H :
                    number<V>(0.0);
            const V t6 = t2 * t5;
            const V t7 = given.eta * grad.E;
            return {{fused(-(t0 * t1), t5, t5), fused(given.r, t6, (number<V>(1.0) - given.eta) *
                    grad.E)}, fused(row.y, t7, so_far.x), {fused(x, t7, so_far.sums.s0)}, {before.E
                    * t6, fused(-before.E, grad.E, (row.y * x) * grad.E)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
    };
};

}  // namespace plastikern::generated
