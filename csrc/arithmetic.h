// The words of which printed arithmetic is made (plastikern/rules/printers.py), for scalars.
#pragma once

#include <cmath>

#include "plasticity.h"

namespace plastikern::arithmetic {

using std::exp, std::log, std::log1p, std::pow, std::sqrt, std::tanh;

// A constant in the type of the values beside it.
template <typename V>
PLASTIKERN_INLINE V number(double value) {
    return static_cast<V>(value);
}

// a b + c, rounded once: where the text says so, and nowhere else.
template <typename V>
PLASTIKERN_INLINE V fused(V a, V b, V c) {
    return std::fma(a, b, c);
}

template <typename V>
PLASTIKERN_INLINE V sigmoid(V x) {
    return 1 / (1 + exp(-x));
}

}  // namespace plastikern::arithmetic
