// Kernels for AVX2, FMA and F16C. Functions carry the target themselves: a compiler flag would also
// reach code that every processor runs.
#if defined(__x86_64__)
#define ISA_NAMESPACE isa_avx2
#define ISA_LEVEL 2
#define ISA_NAME "avx2"
#define ISA_TARGET __attribute__((target("avx2,fma,f16c")))
#include "kernels.inc"

const roost::Kernels* roost::avx2_kernels() { return &roost::isa_avx2::table; }
#else
#include "tiles.h"

const roost::Kernels* roost::avx2_kernels() { return nullptr; }
#endif
