// Chooses, once, the kernels for the best instruction set that both this processor and this build
// have. The environment variable PLASTIKERN_CPU_CAPABILITY (default or avx2) asks for less, to test
// those kernels.
#include <cstdlib>
#include <cstring>

#include "connection.h"

namespace plastikern {

extern const Kernels<float> kernels_default_float;
extern const Kernels<double> kernels_default_double;
#if defined(PLASTIKERN_HAS_AVX2)
extern const Kernels<float> kernels_avx2_float;
extern const Kernels<double> kernels_avx2_double;
#endif
#if defined(PLASTIKERN_HAS_AVX512)
extern const Kernels<float> kernels_avx512_float;
#endif

namespace {

bool wishes(const char* capability) {
    const char* wish = std::getenv("PLASTIKERN_CPU_CAPABILITY");
    return wish != nullptr && std::strcmp(wish, capability) == 0;
}

bool has_avx2() {
#if defined(PLASTIKERN_HAS_AVX2)
    return !wishes("default") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

bool has_avx512() {
#if defined(PLASTIKERN_HAS_AVX512)
    return has_avx2() && !wishes("avx2") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw");
#else
    return false;
#endif
}

const Kernels<float>& choose(float) {
#if defined(PLASTIKERN_HAS_AVX512)
    if (has_avx512()) return kernels_avx512_float;
#endif
#if defined(PLASTIKERN_HAS_AVX2)
    if (has_avx2()) return kernels_avx2_float;
#endif
    return kernels_default_float;
}

const Kernels<double>& choose(double) {
#if defined(PLASTIKERN_HAS_AVX2)
    if (has_avx2()) return kernels_avx2_double;
#endif
    return kernels_default_double;
}

}  // namespace

template <typename S>
const Kernels<S>& kernels() {
    static const Kernels<S>& chosen = choose(S{});
    return chosen;
}

template const Kernels<float>& kernels();
template const Kernels<double>& kernels();

}  // namespace plastikern
