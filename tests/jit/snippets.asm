; husk: guest code whose translation is kept as text in golden/: a record each, read by golden_test.cpp
; A record: mode (64 or 32), options, length of the name, the name "group/what", length of the code (2 bytes), the code.
%define WANDERS 1               ; memory operands have the form of those that access many pages
%define USER 2                  ; privilege level 3
%define COUNTS 4                ; with the counters of --stats
%define FIRST_FORM 8            ; as it is translated first; the others have the form of blocks that run often

%macro RECORD 3
  %push record
  db %1, %2, %%end - %%name
%%name: db %3
%%end:
  dw %$code_end - %$code
  bits %1
%$code:
%endmacro
%macro SNIPPET 1-2 0
  RECORD 64, %2, %1
%endmacro
%macro SNIPPET32 1-2 0
  RECORD 32, %2, %1
%endmacro
%macro END 0
%$code_end:
  %pop
%endmacro

; --- integer instructions on registers: copied ---
SNIPPET "integer/add"
  add rax, rcx
END
SNIPPET "integer/8 bits, old and new names"
  add al, dil
  mov ah, bl
END
SNIPPET "integer/16 bits"
  sub dx, 0x1234
END
SNIPPET "integer/stack pointer is in R15"
  mov rax, rsp
  add rsp, 0x20
  and esp, -16
END
SNIPPET "integer/registers without a home"
  add r10, r11
  mov r15, rax
END
SNIPPET "integer/three registers without a home"
  andn r10, r11, r15
END
SNIPPET "integer/four names of them"
  mulx r10, r11, r15
END
SNIPPET "integer/exchange with one without a home"
  xchg rax, r15
  xchg r10b, cl
END
SNIPPET "integer/lea"
  lea rax, [rbx+rcx*4+0x10]
  lea r15, [rsp+8]
  lea ecx, [r10+r11]
END
SNIPPET "integer/lea of RIP"
  lea rax, [rel $+0x100]
END
SNIPPET "integer/imul"
  imul rdx, rdi, 1000
END
SNIPPET "integer/mul"
  mul r15
END
SNIPPET "integer/shift by CL"
  shl rax, cl
  sar r10d, cl
END
SNIPPET "integer/shift by a constant"
  shr rbx, 5
  rol r15w, 3
END
SNIPPET "integer/double shift"
  shld rax, rdx, 12
END
SNIPPET "integer/bit instructions"
  bt rax, rcx
  bts r10, 5
  popcnt rdx, r15
  tzcnt rsi, rdi
END
SNIPPET "integer/move of a constant"
  mov rax, 0x1122334455667788
  mov r15d, 7
END
SNIPPET "integer/extensions"
  movzx eax, bh
  movsx r10, r11d
  movsxd rcx, edx
  cdqe
END
SNIPPET "integer/bswap"
  bswap r15
  bswap eax
END
SNIPPET "integer/division"
  div rcx
END
SNIPPET "integer/signed division"
  idiv r10d
END
SNIPPET "integer/nop and pause"
  nop
  nop dword [rax+0x100]
  pause
END

; --- flags ---
SNIPPET "flags/conditional move and set"
  cmp rax, rbx
  cmovl rcx, r15
  setnz r10b
END
SNIPPET "flags/dead before a load"
  add rax, rbx
  mov rcx, [rdx]
  xor esi, esi
END
SNIPPET "flags/live over a load"
  add rax, rbx
  mov rcx, [rdx]
  adc rsi, 0
END
SNIPPET "flags/read by the instruction with the operand"
  adc rax, [rbx]
  sbb [rcx], edx
END
SNIPPET "flags/partly kept"
  cmp rax, rbx
  inc qword [rcx]
  jbe $+0x20
END
SNIPPET "flags/shift by CL that may be zero"
  cmp rax, rbx
  shl dword [rdx], cl
  jz $+0x20
END
SNIPPET "flags/lahf and sahf"
  lahf
  or ah, 1
  sahf
END
SNIPPET "flags/carry"
  stc
  cmc
  clc
END
SNIPPET "flags/pushf is for the interpreter"
  pushfq
  popfq
END

; --- memory ---
SNIPPET "memory/load"
  mov rax, [rbx]
END
SNIPPET "memory/load of a user", USER
  mov rax, [rbx]
END
SNIPPET "memory/load with all of an address"
  mov eax, [rbx+rcx*8+0x40]
END
SNIPPET "memory/load relative to RIP"
  mov rax, [rel $+0x1000]
END
SNIPPET "memory/load through FS"
  mov rax, [fs:0x28]
END
SNIPPET "memory/load through GS with a base"
  mov rax, [gs:rbx+8]
END
SNIPPET "memory/load with 32-bit address"
  mov rax, [ebx+4]
END
SNIPPET "memory/load to a register without a home"
  mov r10, [r11+r15*2]
END
SNIPPET "memory/store"
  mov [rbx], rax
  mov dword [rbx+8], 0x12345678
END
SNIPPET "memory/store of AH"
  mov [rbx], ah
  mov [rbx+1], r15b
END
SNIPPET "memory/read, change, write"
  add [rbx], rcx
  not word [rdx]
END
SNIPPET "memory/several of one structure"
  mov rax, [rdi]
  mov rcx, [rdi+8]
  mov rdx, [rdi+16]
  mov [rdi+24], rax
END
SNIPPET "memory/constants of one page, relative to RIP"
  movsd xmm0, [rel $+0x100]
  mulsd xmm0, [rel $+0x228]
  andps xmm0, [rel $+0x410]
END
SNIPPET "memory/stack frame"
  mov rax, [rsp+8]
  mov [rsp+16], rax
  mov [rbp-8], rax
END
SNIPPET "memory/absolute"
  mov eax, [0x1000]
END
SNIPPET "memory/64-bit absolute"
  mov rax, [qword 0x112233445566]
  mov [qword 0x112233445566], al
END
SNIPPET "memory/aligned neighbours, one of them below"
  movaps xmm0, [rax+0x24]
  movaps [rax+0x14], xmm0
  mov ecx, [rax+0x10]
END
SNIPPET "loop/two pointers"
two_pointers:
  mov rdx, [rbx]
  mov [rsi+8], rdx
  add rbx, 8
  sub rsi, 16
  dec ecx
  jnz two_pointers
END
SNIPPET "loop/base, index and a constant"
base_and_index:
  movss xmm0, [r8+rax*4]
  mulss xmm0, [rel $+0x100]
  addss xmm0, [rdx+rax*4]
  movss [rdx+rax*4], xmm0
  add rax, 3
  cmp rax, rcx
  jne base_and_index
END
SNIPPET "loop/one operand wanders, one register has no home"
mixed_loop:
  movzx eax, byte [rsi]
  mov r10d, [rdi+rax*4]
  inc rsi
  xor [rbx], r10d
  dec rcx
  jnz mixed_loop
END
SNIPPET "memory/wandering load", WANDERS
  mov rax, [rbx+rcx]
END
SNIPPET "memory/wandering store", WANDERS
  mov [rbx+rcx], eax
END
SNIPPET "memory/movzx and movsx"
  movzx eax, byte [rbx]
  movsx rcx, word [rdx]
END
SNIPPET "memory/movbe"
  movbe rax, [rbx]
END
SNIPPET "memory/bit test with a register is for the interpreter"
  bt [rbx], rax
END
SNIPPET "memory/string instructions are for the interpreter"
  lodsb
  stosd
END
SNIPPET "memory/REP MOVS and REP STOS"
  rep movsb
  rep stosq
END

; --- locked ---
SNIPPET "locked/xadd"
  lock xadd [rbx], rax
END
SNIPPET "locked/cmpxchg"
  lock cmpxchg [rbx], r15
END
SNIPPET "locked/cmpxchg8b"
  lock cmpxchg8b [rdi]
END
SNIPPET "locked/cmpxchg16b"
  lock cmpxchg16b [rdi]
END
SNIPPET "locked/xchg"
  xchg [rbx], eax
END
SNIPPET "locked/bts by a constant"
  lock bts dword [rbx], 7
END
SNIPPET "locked/inc and dec"
  lock inc dword [rbx]
  lock dec byte [rcx]
END
SNIPPET "locked/fences"
  mfence
  lfence
  sfence
END

; --- stack ---
SNIPPET "stack/push and pop"
  push rbx
  pop rcx
END
SNIPPET "stack/several"
  push rbp
  mov rbp, rsp
  push r12
  push r15
  sub rsp, 0x18
END
SNIPPET "stack/push of a constant"
  push 5
  push qword 0x12345678
END
SNIPPET "stack/push of memory"
  push qword [rax]
END
SNIPPET "stack/push and pop of RSP"
  push rsp
  pop rsp
END
SNIPPET "stack/leave"
  leave
END

; --- control flow ---
SNIPPET "control/jump in the page"
  jmp $+0x40
END
SNIPPET "control/jump to another page"
  jmp $+0x2000
END
SNIPPET "control/back edge"
  dec ecx
  jnz $-0x20
END
SNIPPET "control/loop to itself"
again:
  add rax, [rbx]
  add rbx, 8
  dec ecx
  jnz again
END
SNIPPET "control/conditional, both ways in the page"
  test rax, rax
  js $+0x30
END
SNIPPET "control/compare and jump of the kind compilers make"
  cmp dword [rdi+4], 3
  ja $+0x50
END
SNIPPET "control/loop"
  loop $-0x10
END
SNIPPET "control/jrcxz"
  jrcxz $+0x20
END
SNIPPET "control/call"
  call $+0x100
END
SNIPPET "control/call to another page"
  call $+0x3000
END
SNIPPET "control/call through a register"
  call rax
END
SNIPPET "control/call through memory"
  call [rax+8]
END
SNIPPET "control/jump through a register"
  jmp r11
END
SNIPPET "control/jump through a table"
  jmp [rax+rcx*8]
END
SNIPPET "control/ret"
  ret
END
SNIPPET "control/ret that releases"
  ret 0x10
END
SNIPPET "control/function", USER
  push rbx
  mov rbx, rdi
  mov eax, [rbx]
  add eax, 1
  pop rbx
  ret
END
SNIPPET "control/counted", COUNTS
  add rax, rcx
  jmp $+0x20
END

; --- vectors ---
SNIPPET "vector/SSE move and add"
  movaps xmm0, xmm1
  addps xmm0, xmm2
END
SNIPPET "vector/load and store"
  movups xmm0, [rax]
  movaps [rbx], xmm0
END
SNIPPET "vector/scalar double"
  movsd xmm0, [rax]
  mulsd xmm0, xmm1
  cvttsd2si rcx, xmm0
END
SNIPPET "vector/integers and a register without a home"
  movq xmm3, r15
  paddd xmm3, xmm4
  movd r10d, xmm3
END
SNIPPET "vector/compare sets flags"
  ucomisd xmm0, [rax]
  ja $+0x20
END
SNIPPET "vector/AVX"
  vaddps ymm0, ymm1, [rax]
  vmovdqu [rbx], ymm0
END
SNIPPET "vector/FMA"
  vfmadd231pd ymm2, ymm3, ymm4
END
SNIPPET "vector/AES"
  aesenc xmm0, [rax]
END
SNIPPET "vector/gather is for the interpreter"
  vpgatherdd xmm0, [rax+xmm1*4], xmm2
END
SNIPPET "vector/mxcsr is for the interpreter"
  stmxcsr [rax]
END

; --- x87 ---
SNIPPET "x87/arithmetic"
  fld qword [rax]
  fadd st0, st1
  fstp dword [rbx]
END
SNIPPET "x87/80 bits"
  fld tword [rax]
  fstp tword [rbx]
END
SNIPPET "x87/compare"
  fucomip st1
  jp $+0x20
END
SNIPPET "x87/control word"
  fnstcw [rax]
  fldcw [rax]
END
SNIPPET "x87/MMX"
  movq mm0, [rax]
  paddw mm0, mm1
  emms
END

; --- system ---
SNIPPET "system/interrupt flag"
  cli
  sti
END
SNIPPET "system/interrupt flag of a user", USER
  cli
END
SNIPPET "system/syscall", USER
  syscall
END
SNIPPET "system/cpuid"
  cpuid
END
SNIPPET "system/rdtsc"
  rdtsc
END
SNIPPET "system/ports"
  in al, dx
  out dx, al
END
SNIPPET "system/invlpg and CR3"
  invlpg [rax]
  mov cr3, rax
END
SNIPPET "system/swapgs and iretq"
  swapgs
  iretq
END
SNIPPET "system/hlt"
  hlt
END

; --- the form of blocks that have not run often ---
SNIPPET "first/load", FIRST_FORM
  mov rax, [rbx]
END
SNIPPET "first/several of one structure", FIRST_FORM
  mov rax, [rdi]
  mov rcx, [rdi+8]
  mov [rdi+24], rax
END
SNIPPET "first/function", FIRST_FORM | USER
  push rbx
  mov ebx, [rdi+4]
  pop rbx
  ret
END
SNIPPET "first/loop", FIRST_FORM
first_again:
  add rax, [rbx]
  add rbx, 8
  dec ecx
  jnz first_again
END

; --- 32-bit code ---
SNIPPET32 "code32/arithmetic and short inc"
  add eax, ecx
  inc edx
  dec esp
END
SNIPPET32 "code32/load and store"
  mov eax, [ebx+ecx*4+8]
  mov [0x1000], eax
END
SNIPPET32 "code32/stack"
  push ebx
  push dword [esp+4]
  pop eax
END
SNIPPET32 "code32/call and return"
  call $+0x100
END
SNIPPET32 "code32/ret"
  ret
END
SNIPPET32 "code32/jump through a table"
  jmp [eax*4+0x2000]
END
SNIPPET32 "code32/segment prefix"
  mov eax, [gs:0x14]
END
SNIPPET32 "code32/pusha is for the interpreter"
  pusha
  popa
END
