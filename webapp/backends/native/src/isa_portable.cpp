// Kernels for any processor.
#define ISA_NAMESPACE isa_portable
#define ISA_LEVEL 0
#define ISA_NAME "portable"
#define ISA_TARGET
#include "kernels.inc"

const roost::Kernels* roost::portable_kernels() { return &roost::isa_portable::table; }
