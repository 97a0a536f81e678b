// Written by `python -m plastikern.rules` from the definitions in plastikern/rules; do not edit.
#pragma once

#include "../arithmetic.h"

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
    template <typename V>
    struct ForwardGiven {
        V input_sum, forget_sum, candidate_sum, output_sum, cell_before;
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
        const V t4 = fused(t0, t2, t1 * given.cell_before);
        return {t0, t1, t2, t3, t4, t3 * tanh(t4)};
    }
    template <typename V>
    struct AdjointGiven {
        V input, forget, candidate, output, cell, cell_before, grad_candidate, grad_cell,
                grad_hidden;
    };
    template <typename V>
    struct Adjoint {
        V grad_input_sum, grad_forget_sum, grad_candidate_sum, grad_output_sum, grad_cell_before;
    };
    template <typename V>
    static PLASTIKERN_INLINE Adjoint<V> adjoint(const AdjointGiven<V>& given) {
        const V t0 = tanh(given.cell);
        const V t1 = fused(given.grad_hidden * given.output, fused(-t0, t0, number<V>(1.0)),
                given.grad_cell);
        const V t2 = given.input * t1;
        return {(given.candidate * t2) * (number<V>(1.0) - given.input), (((number<V>(1.0) -
                given.forget) * t1) * given.forget) * given.cell_before, (given.grad_candidate + t2)
                * fused(-given.candidate, given.candidate, number<V>(1.0)), (((number<V>(1.0) -
                given.output) * given.grad_hidden) * given.output) * t0, t1 * given.forget};
    }
};

}  // namespace plastikern::generated

#define PLASTIKERN_ACTIVITIES(X) X(tanh) X(relu) X(sigmoid) X(identity)
