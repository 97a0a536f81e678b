// What the sources of a user's rule use of the C++ library, for NVRTC, which has none: it is given
// this text for each of those headers (Python's plastikern/rules/cuda.py). Functions of mathematics
// are the compiler's own.
#if !defined(PLASTIKERN_NVRTC)
#define PLASTIKERN_NVRTC

// As the front end's own headers have it: the address is a constant.
#define __builtin_offsetof(type, member) __INTADDR__(&((static_cast<type*>(nullptr))->member))

namespace std {

using size_t = decltype(sizeof 0);
using int64_t = long long;
using ::exp, ::fma, ::log, ::log1p, ::pow, ::sqrt, ::tanh;

template <typename T, T kValue>
struct integral_constant {
    static constexpr T value = kValue;
    constexpr operator T() const { return kValue; }
};

template <typename T>
constexpr bool is_arithmetic_v = false;
template <>
inline constexpr bool is_arithmetic_v<float> = true;
template <>
inline constexpr bool is_arithmetic_v<double> = true;

template <typename T>
struct Plain {
    using type = T;
};
template <typename T>
struct Plain<const T> {
    using type = T;
};
template <typename T>
struct Plain<T&> : Plain<T> {};
template <typename T>
using remove_cvref_t = typename Plain<T>::type;

template <size_t... kPlace>
struct index_sequence {};
template <size_t kCount, size_t... kPlace>
struct Counted : Counted<kCount - 1, kCount - 1, kPlace...> {};
template <size_t... kPlace>
struct Counted<0, kPlace...> {
    using type = index_sequence<kPlace...>;
};
template <size_t kCount>
using make_index_sequence = typename Counted<kCount>::type;

}  // namespace std

using std::int64_t;

#endif
