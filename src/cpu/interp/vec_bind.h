// husk: the parts that bind_mmx_sse, bind_avx and bind_crypto are made of
#pragma once

#include "cpu/interp/core.h"
#include "cpu/sem.h"

namespace husk::cpu::interp {

void bind_mmx(HandlerTable& table);              // mmx.cpp
void bind_sse_int(HandlerTable& table);          // sse_int.cpp
void bind_avx_int(HandlerTable& table);          // avx_int.cpp
void bind_avx_memory(HandlerTable& table);       // avx_memory.cpp: masked moves and gathers
void bind_vec_moves(HandlerTable& table);        // vec_move.cpp: SSE, SSE4A and AVX moves, inserts, extracts, masks
void bind_vec_strings(HandlerTable& table);      // vec_string.cpp: PCMPxSTRx of both encodings
void bind_sse_fp(HandlerTable& table);           // sse_fp.cpp
void bind_avx_fp(HandlerTable& table);           // avx_fp.cpp
void bind_avx_fma(HandlerTable& table);          // avx_fp_fma.cpp
void bind_vec_conversions(HandlerTable& table);  // vec_convert.cpp: both encodings, and those with MMX registers

}  // namespace husk::cpu::interp
