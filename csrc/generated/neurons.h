// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"
#include "program.h"

namespace plastikern::generated {

using arithmetic::exp, arithmetic::log, arithmetic::log1p, arithmetic::pow, arithmetic::sqrt;
using arithmetic::fused, arithmetic::number, arithmetic::sigmoid, arithmetic::tanh;
using arithmetic::Pass;

struct activity_tanh {
    template <typename V>
    struct ForwardGiven {
        V z;
    };
    template <typename V>
    struct Forward {
        V y;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        return {tanh(given.z)};
    }
    template <typename V>
    struct AdjointGiven {
        V y, grad_y;
    };
    template <typename V>
    struct Adjoint {
        V grad_z;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        return {fused(-given.y, given.y, number<V>(1.0)) * given.grad_y};
    }
};

struct activity_relu {
    template <typename V>
    struct ForwardGiven {
        V z;
    };
    template <typename V>
    struct Forward {
        V y;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        return {(given.z <= number<V>(0.0)) ? number<V>(0.0) : given.z};
    }
    template <typename V>
    struct AdjointGiven {
        V y, grad_y;
    };
    template <typename V>
    struct Adjoint {
        V grad_z;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        return {(given.y <= number<V>(0.0)) ? number<V>(0.0) : given.grad_y};
    }
};

struct activity_sigmoid {
    template <typename V>
    struct ForwardGiven {
        V z;
    };
    template <typename V>
    struct Forward {
        V y;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        return {sigmoid(given.z)};
    }
    template <typename V>
    struct AdjointGiven {
        V y, grad_y;
    };
    template <typename V>
    struct Adjoint {
        V grad_z;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        return {(given.grad_y * given.y) * (number<V>(1.0) - given.y)};
    }
};

struct activity_identity {
    template <typename V>
    struct ForwardGiven {
        V z;
    };
    template <typename V>
    struct Forward {
        V y;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        return {given.z};
    }
    template <typename V>
    struct AdjointGiven {
        V y, grad_y;
    };
    template <typename V>
    struct Adjoint {
        V grad_z;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        return {given.grad_y};
    }
};

struct lstm {
    static constexpr int drives = 4, weights = 4, kept_rows = 5;
    static constexpr bool carries = true;
    template <class F, class... A>
    static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
        f(0, a.input_sum...); f(1, a.forget_sum...); f(2, a.candidate_sum...); f(3,
                a.output_sum...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void kept(const F& f, A&... a) {
        f(0, a.input...); f(1, a.forget...); f(2, a.candidate...); f(3, a.output...); f(4,
                a.cell...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void grads(const F& f, A&... a) {
        f(0, a.grad_input_sum...); f(1, a.grad_forget_sum...); f(2, a.grad_candidate_sum...); f(3,
                a.grad_output_sum...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void posts(const F& f, A&... a) {
        f(Post::candidate, a.grad_candidate...); f(Post::cell, a.grad_cell...); f(Post::hidden,
                a.grad_hidden...);
    }
    template <typename V>
    struct ForwardGiven {
        V input_sum, forget_sum, candidate_sum, output_sum, before;
    };
    template <typename V>
    struct Forward {
        V input, forget, candidate, output, cell, hidden;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        const V t0 = sigmoid(given.input_sum);
        const V t1 = sigmoid(given.forget_sum);
        const V t2 = tanh(given.candidate_sum);
        const V t3 = sigmoid(given.output_sum);
        const V t4 = fused(t0, t2, given.before * t1);
        return {t0, t1, t2, t3, t4, t3 * tanh(t4)};
    }
    template <typename V>
    struct AdjointGiven {
        V input, forget, candidate, output, cell, before, grad_candidate, grad_cell, grad_hidden;
    };
    template <typename V>
    struct Adjoint {
        V grad_input_sum, grad_forget_sum, grad_candidate_sum, grad_output_sum, grad_before;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        const V t0 = tanh(given.cell);
        const V t1 = fused(given.grad_hidden * given.output, fused(-t0, t0, number<V>(1.0)),
                given.grad_cell);
        const V t2 = given.input * t1;
        return {(given.candidate * t2) * (number<V>(1.0) - given.input), ((given.before *
                (number<V>(1.0) - given.forget)) * t1) * given.forget, (given.grad_candidate + t2) *
                fused(-given.candidate, given.candidate, number<V>(1.0)), (((number<V>(1.0) -
                given.output) * given.grad_hidden) * given.output) * t0, t1 * given.forget};
    }
};

struct gru {
    static constexpr int drives = 4, weights = 3, kept_rows = 4;
    static constexpr bool carries = false;
    template <class F, class... A>
    static PLASTIKERN_INLINE void sums(const F& f, A&... a) {
        f(0, a.reset_sum...); f(1, a.update_sum...); f(2, a.recurrent_sum...); f(3,
                a.candidate_sum...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void kept(const F& f, A&... a) {
        f(0, a.reset...); f(1, a.update...); f(2, a.recurrent...); f(3, a.candidate...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void grads(const F& f, A&... a) {
        f(0, a.grad_reset_sum...); f(1, a.grad_update_sum...); f(2, a.grad_recurrent_sum...); f(3,
                a.grad_candidate_sum...);
    }
    template <class F, class... A>
    static PLASTIKERN_INLINE void posts(const F& f, A&... a) {
        f(Post::candidate, a.grad_candidate...); f(Post::recurrent, a.grad_recurrent...);
                f(Post::hidden, a.grad_hidden...);
    }
    template <typename V>
    struct ForwardGiven {
        V reset_sum, update_sum, recurrent_sum, candidate_sum, before;
    };
    template <typename V>
    struct Forward {
        V reset, update, recurrent, candidate, hidden;
    };
    template <typename V>
    static PLASTIKERN_INLINE Forward<V> forward(const ForwardGiven<V>& given) {
        const V t0 = sigmoid(given.reset_sum);
        const V t1 = sigmoid(given.update_sum);
        const V t2 = tanh(fused(t0, given.recurrent_sum, given.candidate_sum));
        return {t0, t1, given.recurrent_sum, t2, fused(given.before, t1, (number<V>(1.0) - t1) *
                t2)};
    }
    template <typename V>
    struct AdjointGiven {
        V reset, update, recurrent, candidate, before, grad_candidate, grad_recurrent, grad_hidden;
    };
    template <typename V>
    struct Adjoint {
        V grad_reset_sum, grad_update_sum, grad_recurrent_sum, grad_candidate_sum, grad_before;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        const V t0 = number<V>(1.0) - given.update;
        const V t1 = fused(-given.candidate, given.candidate, number<V>(1.0)) *
                fused(given.grad_hidden, t0, given.grad_candidate);
        const V t2 = t1 * given.reset;
        return {(t2 * (number<V>(1.0) - given.reset)) * given.recurrent, (given.update * t0) *
                fused(-given.grad_hidden, given.candidate, given.grad_hidden * given.before),
                given.grad_recurrent + t2, t1, given.grad_hidden * given.update};
    }
};

}  // namespace plastikern::generated

#define PLASTIKERN_ACTIVITIES(X) X(tanh) X(relu) X(sigmoid) X(identity)
#define PLASTIKERN_CELLS(X) X(lstm) X(gru)
