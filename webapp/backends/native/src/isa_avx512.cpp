// Kernels for AVX-512 (F, BW, VL, DQ) with VNNI. Functions carry the target themselves: a compiler flag would also
// reach code that every processor runs.
#if defined(__x86_64__)
#define ISA_NAMESPACE isa_avx512
#define ISA_LEVEL 3
#define ISA_NAME "avx512-vnni"
#define ISA_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#include "kernels.inc"

const roost::Kernels* roost::avx512_kernels() { return &roost::isa_avx512::table; }
#else
#include "tiles.h"

const roost::Kernels* roost::avx512_kernels() { return nullptr; }
#endif
