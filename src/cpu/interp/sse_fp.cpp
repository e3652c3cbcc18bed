// husk: SSE floating-point arithmetic (legacy encodings)
#include "cpu/interp/vec_bind.h"
#include "cpu/interp/vec_fp_ops.h"

namespace husk::cpu::interp {

void bind_sse_fp(HandlerTable& table) { HUSK_VEC_BIND_FP(table, sse_, Encoding::sse, 7) }

}  // namespace husk::cpu::interp
