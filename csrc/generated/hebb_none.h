// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = H + r * (y * x)
struct hebb_none {
    static constexpr bool reverses = true, fades = false;
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
            return {fused(row.v0, x, before.H)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& /*before*/,
                V x, const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>&
                so_far) {
            return {{grad.H}, fused(row.v0, grad.H, so_far.x), {fused(x, grad.H, so_far.sums.s0)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.r * sums.s0, {row.y * sums.s0}};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(-row.v0, x, after.H)};
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
            return {fused(row.y * x, given.r, before.H)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& /*before*/,
                V x, const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far)
                {
            const V t0 = given.r * grad.H;
            return {{grad.H}, fused(row.y, t0, so_far.x), {fused(x, t0, so_far.sums.s0)}, {(row.y *
                    x) * grad.H}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& given) {
            return {fused(-(row.y * x), given.r, after.H)};
        }
    };
};

// H' = H + r * E; E' = (1 - eta) * E + eta * (y * x)
struct hebb_none_retroactive {
    static constexpr bool reverses = true, fades = false;
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
            V r, v1, v2, eta, y, v5, v6;
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
            const V t0 = number<V>(1.0) - given.eta;
            const V t1 = number<V>(1.0) / t0;
            return {given.r, t0, given.eta * y, given.eta, y, t1, fused(-t0, t1, number<V>(1.0)) *
                    t1};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(row.r, before.E, before.H), fused(row.v2, x, row.v1 * before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            return {{grad.H, fused(row.r, grad.H, row.v1 * grad.E)}, fused(row.v2, grad.E,
                    so_far.x), {fused(x, grad.E, so_far.sums.s0), fused(before.E, grad.H,
                    so_far.sums.s1), fused(before.E, grad.E, so_far.sums.s2)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {row.eta * sums.s0, {sums.s1, fused(row.y, sums.s0, -sums.s2)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& /*given*/) {
            const V t0 = fused(-row.v2, x, after.E);
            const V t1 = fused(row.v5, t0, row.v6 * t0);
            return {fused(-row.r, t1, after.H), t1};
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
            return {fused(before.E, given.r, before.H), fused(row.y * x, given.eta, before.E *
                    (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = given.eta * grad.E;
            return {{grad.H, fused(given.r, grad.H, (number<V>(1.0) - given.eta) * grad.E)},
                    fused(row.y, t0, so_far.x), {fused(x, t0, so_far.sums.s0)}, {before.E * grad.H,
                    fused(-before.E, grad.E, (row.y * x) * grad.E)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& /*row*/, const Sums<V>& sums) {
            return {sums.s0};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> reverse(const Row<V>& row, const States<V>& after, V x,
                const Coefficients<V>& given) {
            const V t0 = fused(-(row.y * x), given.eta, after.E);
            const V t1 = number<V>(1.0) - given.eta;
            const V t2 = number<V>(1.0) / t1;
            const V t3 = fused(t0, t2, (t0 * fused(-t1, t2, number<V>(1.0))) * t2);
            return {fused(-given.r, t3, after.H), t3};
        }
    };
};

}  // namespace plastikern::generated
