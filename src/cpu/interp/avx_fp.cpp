// husk: AVX floating-point arithmetic (VEX encodings)
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_fp_ops.h"

namespace husk::cpu::interp {

void bind_avx_fp(HandlerTable& table) { HUSK_VEC_BIND_FP(table, avx_, Encoding::vex, 31) }

}  // namespace husk::cpu::interp
