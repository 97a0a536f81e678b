// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

// sum of (w + alpha * H) * x
struct read_trace {
    struct by_row {
        template <typename V>
        struct Row {
            V alpha, grad_sum, v2;
        };
        template <typename V>
        struct Adjoint {
            V H, x;
        };
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V /*c*/, V alpha, V grad_sum) {
            return {alpha, grad_sum, alpha * grad_sum};
        }
        template <typename V>
        static PLASTIKERN_INLINE V sum(const Row<V>& row, V w, V /*alpha*/, V H, V x, V so_far) {
            return fused(x, fused(row.alpha, H, w), so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, V w, V /*alpha*/, V H, V x,
                const Adjoint<V>& so_far) {
            return {fused(row.v2, x, so_far.H), fused(row.grad_sum, fused(row.alpha, H, w),
                    so_far.x)};
        }
        template <typename V>
        static PLASTIKERN_INLINE V alpha(const Row<V>& /*row*/, V H, V x, V so_far) {
            return fused(x, H, so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE V finish(const Row<V>& row, V sum) {
            return sum * row.grad_sum;
        }
    };
    struct by_synapse {
        template <typename V>
        struct Row {
            V grad_sum;
        };
        template <typename V>
        struct Adjoint {
            V H, x;
        };
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V /*c*/, V /*alpha*/, V grad_sum) {
            return {grad_sum};
        }
        template <typename V>
        static PLASTIKERN_INLINE V sum(const Row<V>& /*row*/, V w, V alpha, V H, V x, V so_far) {
            return fused(x, fused(alpha, H, w), so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, V w, V alpha, V H, V x, const
                Adjoint<V>& so_far) {
            return {fused(alpha, row.grad_sum * x, so_far.H), fused(row.grad_sum, fused(alpha, H,
                    w), so_far.x)};
        }
        template <typename V>
        static PLASTIKERN_INLINE V alpha(const Row<V>& row, V H, V x, V so_far) {
            return fused(row.grad_sum * x, H, so_far);
        }
    };
};

// sum of (w + alpha * clamp(H, -c, c)) * x
struct read_clipped {
    struct by_row {
        template <typename V>
        struct Row {
            V alpha, c, v2, grad_sum, v4;
        };
        template <typename V>
        struct Adjoint {
            V H, x;
        };
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V c, V alpha, V grad_sum) {
            return {alpha, c, -c, grad_sum, alpha * grad_sum};
        }
        template <typename V>
        static PLASTIKERN_INLINE V sum(const Row<V>& row, V w, V /*alpha*/, V H, V x, V so_far) {
            const V t0 = (H < row.v2) ? row.v2 : H;
            return fused(x, fused(row.alpha, (row.c < t0) ? row.c : t0, w), so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, V w, V /*alpha*/, V H, V x,
                const Adjoint<V>& so_far) {
            const V t0 = (H < row.v2) ? row.v2 : H;
            const V t1 = (row.c < t0) ? row.c : t0;
            return {so_far.H + ((t1 == H) ? (row.v4 * x) : number<V>(0.0)), fused(row.grad_sum,
                    fused(row.alpha, t1, w), so_far.x)};
        }
        template <typename V>
        static PLASTIKERN_INLINE V alpha(const Row<V>& row, V H, V x, V so_far) {
            const V t0 = (H < row.v2) ? row.v2 : H;
            return fused(x, (row.c < t0) ? row.c : t0, so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE V finish(const Row<V>& row, V sum) {
            return row.grad_sum * sum;
        }
    };
    struct by_synapse {
        template <typename V>
        struct Row {
            V c, v1, grad_sum;
        };
        template <typename V>
        struct Adjoint {
            V H, x;
        };
        template <typename V>
        static PLASTIKERN_INLINE Row<V> row(V c, V /*alpha*/, V grad_sum) {
            return {c, -c, grad_sum};
        }
        template <typename V>
        static PLASTIKERN_INLINE V sum(const Row<V>& row, V w, V alpha, V H, V x, V so_far) {
            const V t0 = (H < row.v1) ? row.v1 : H;
            return fused(x, fused(alpha, (row.c < t0) ? row.c : t0, w), so_far);
        }
        template <typename V>
        static PLASTIKERN_INLINE Adjoint<V> adjoint(const Row<V>& row, V w, V alpha, V H, V x, const
                Adjoint<V>& so_far) {
            const V t0 = (H < row.v1) ? row.v1 : H;
            const V t1 = (row.c < t0) ? row.c : t0;
            return {so_far.H + ((t1 == H) ? (alpha * (row.grad_sum * x)) : number<V>(0.0)),
                    fused(row.grad_sum, fused(alpha, t1, w), so_far.x)};
        }
        template <typename V>
        static PLASTIKERN_INLINE V alpha(const Row<V>& row, V H, V x, V so_far) {
            const V t0 = (H < row.v1) ? row.v1 : H;
            return fused(row.grad_sum * x, (row.c < t0) ? row.c : t0, so_far);
        }
    };
};

}  // namespace plastikern::generated
