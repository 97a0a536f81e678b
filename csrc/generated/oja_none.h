// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// H' = H + r * (y * (x - y * H))
struct oja_none {
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
            V y, v1, r, v3, v4;
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
            const V t0 = -y;
            return {y, given.r * y, given.r, t0 * given.r, t0 * y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(row.v1, fused(-row.y, before.H, x), before.H)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.v1 * grad.H;
            return {{fused(-row.y, t0, grad.H)}, so_far.x + t0, {fused(x, grad.H, so_far.sums.s0),
                    fused(before.H, grad.H, so_far.sums.s1)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {fused(-row.v1, sums.s1, fused(row.v3, sums.s1, row.r * sums.s0)), {fused(row.v4,
                    sums.s1, row.y * sums.s0)}};
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
            f(0, a.s0...); f(1, a.s1...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            return {fused(row.y, given.r * fused(-row.y, before.H, x), before.H)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = given.r * grad.H;
            const V t1 = row.y * t0;
            return {{fused(-row.y, t1, grad.H)}, so_far.x + t1, {fused(x, t0, so_far.sums.s0),
                    fused(before.H, t0, so_far.sums.s1)}, {row.y * (grad.H * fused(-row.y, before.H,
                    x))}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            const V t0 = sums.s1 * row.y;
            return {(sums.s0 - t0) - t0};
        }
    };
};

// H' = H + r * E; E' = (1 - eta) * E + eta * (y * (x - y * H))
struct oja_none_retroactive {
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
            V r, v1, y, v3, eta, v5, v6;
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
            const V t0 = -y;
            return {given.r, number<V>(1.0) - given.eta, y, given.eta * y, given.eta, t0, given.eta
                    * t0};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/) {
            return {fused(row.r, before.E, before.H), fused(row.v3, fused(-row.y, before.H, x),
                    row.v1 * before.E)};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& /*given*/, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = row.v3 * grad.E;
            return {{fused(-row.y, t0, grad.H), fused(row.r, grad.H, row.v1 * grad.E)}, so_far.x +
                    t0, {fused(x, grad.E, so_far.sums.s0), fused(before.H, grad.E, so_far.sums.s1),
                    fused(before.E, grad.H, so_far.sums.s2), fused(before.E, grad.E,
                    so_far.sums.s3)}};
        }
        template <typename V>
        static PLASTIKERN_INLINE Finished<V> finish(const Row<V>& row, const Sums<V>& sums) {
            return {fused(-(row.eta * sums.s1), row.y, fused(row.v6, sums.s1, row.eta * sums.s0)),
                    {sums.s2, fused(row.v5 * sums.s1, row.y, row.y * sums.s0) - sums.s3}};
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
            f(0, a.s0...); f(1, a.s1...);
        }
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V y, V /*c*/, V /*pre_count*/, const Coefficients<V>&
                /*given*/) {
            return {y};
        }
        template <typename V>
        static PLASTIKERN_INLINE States<V> next(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given) {
            return {fused(before.E, given.r, before.H), fused(row.y, given.eta * fused(-row.y,
                    before.H, x), before.E * (number<V>(1.0) - given.eta))};
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, const States<V>& before, V x,
                const Coefficients<V>& given, const States<V>& grad, const Adjoint<V>& so_far) {
            const V t0 = given.eta * grad.E;
            const V t1 = row.y * t0;
            return {{fused(-row.y, t1, grad.H), fused(given.r, grad.H, (number<V>(1.0) - given.eta)
                    * grad.E)}, so_far.x + t1, {fused(x, t0, so_far.sums.s0), fused(before.H, t0,
                    so_far.sums.s1)}, {before.E * grad.H, fused(-before.E, grad.E, row.y * (grad.E *
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
