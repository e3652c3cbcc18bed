; husk: locked instructions of several CPUs on the same memory: nothing is lost (SDM vol. 3, 8.1)
%define CPUS 4
%include "smp.inc"
%define ROUNDS 20000

; COUNT "name", body: each CPU runs the body ROUNDS * loops times; R8 = shared, RDI = CPU; keeps RDI, R8, R9
%macro COUNT 2
  call clear
  RUN %2
%endmacro
%macro LOOP_BEGIN 0
  mov r9, ROUNDS
  imul r9, [loops]
  mov r8d, shared
  call barrier
%%next_round:
  %push body
  %define %$again %%next_round
%endmacro
%macro LOOP_END 0
  dec r9
  jnz %$again
  %pop
  ret
%endmacro
; EXPECT "name", memory operand, factor: ROUNDS * loops * CPUS * factor, as 64 bits
%macro EXPECT 3
  mov rcx, ROUNDS * CPUS * (%3)
  imul rcx, [loops]
  mov rax, %2
  CHECK %1, rax, rcx
%endmacro

clear:
  mov edi, shared
  mov ecx, 0x3000 / 8
  xor eax, eax
  rep stosq
  ret

tests:
  COUNT "", spinlock_xchg
  EXPECT "counter under a lock by XCHG", [abs shared + 64], 1
  COUNT "", ticket_lock
  EXPECT "counter under a ticket lock", [abs shared + 64], 1
  COUNT "", bit_lock
  EXPECT "counter under LOCK BTS and BTR", [abs shared + 64], 1
  COUNT "", arithmetic
  EXPECT "LOCK INC", [abs shared], 1
  EXPECT "LOCK ADD", [abs shared + 8], 3
  EXPECT "LOCK SUB", [abs shared + 16], -2
  EXPECT "LOCK XADD", [abs shared + 24], 5
  mov eax, [abs shared + 32]
  CHECK "LOCK XOR of a bit each, an even number of times", rax, 0
  mov eax, [abs shared + 36]
  CHECK "LOCK OR and AND of a byte each", rax, 0
  COUNT "", neighbours
  mov rcx, ROUNDS
  imul rcx, [loops]
  movzx ecx, cl
  imul ecx, ecx, 0x01010101
  mov eax, [abs shared]
  CHECK "bytes of one word, a CPU each, unlocked", rax, rcx
  COUNT "", compare
  EXPECT "LOCK CMPXCHG, 64 bits", [abs shared], 1
  mov rcx, ROUNDS * CPUS
  imul rcx, [loops]
  movzx ecx, cx
  movzx eax, word [abs shared + 16]
  CHECK "LOCK CMPXCHG, 16 bits", rax, rcx
  COUNT "", compare8b
  EXPECT "LOCK CMPXCHG8B", [abs shared], 1
  COUNT "", compare16b
  EXPECT "LOCK CMPXCHG16B, low half", [abs shared], 1
  EXPECT "LOCK CMPXCHG16B, high half", [abs shared + 8], 2
  COUNT "", lines
  EXPECT "LOCK XADD across a cache line", [abs shared + 60], 1
  EXPECT "LOCK INC across a cache line", [abs shared + 126], 1
  COUNT "", pages
  EXPECT "LOCK XADD across a page", [abs shared + 0xffc], 1
  COUNT "", pages_compare
  EXPECT "LOCK CMPXCHG across a page", [abs shared + 0xffd], 1
  ; The same bytes of RAM at VA, where some of the CPUs use them.
  MAP 0, shared, 3
  MAP 1, shared + 0x1000, 3
  COUNT "", aliases
  EXPECT "LOCK XADD at two addresses of one place", [abs shared], 1
  EXPECT "LOCK XADD across a page, at two addresses", [abs shared + 0xffc], 1
  mov qword [abs beside_code], 0
  RUN beside
  EXPECT "LOCK INC beside code that runs", [abs beside_code], 1
  mov qword [abs beside_code_16], 0
  mov qword [abs beside_code_16 + 8], 0
  RUN beside_16
  EXPECT "LOCK CMPXCHG16B beside code that runs", [abs beside_code_16 + 8], 2
  ; With no translation in any TLB each access takes the longest way.
  COUNT "", flushed
  EXPECT "LOCK XADD behind a flush of the TLB", [abs shared], 1
  EXPECT "LOCK XADD across a cache line behind a flush", [abs shared + 60], 1
  COUNT "", flushed_16
  EXPECT "LOCK CMPXCHG16B behind a flush, low half", [abs shared], 1
  EXPECT "LOCK CMPXCHG16B behind a flush, high half", [abs shared + 8], 2
  COUNT "", tear
  mov rax, [abs shared + 64]
  CHECK "8 bytes, aligned, are stored at once", rax, 0
  mov rax, [abs shared + 128]
  CHECK "the same beside code", rax, 0
  ret

spinlock_xchg:
  LOOP_BEGIN
.acquire:
  mov eax, 1
  xchg eax, [r8]
  test eax, eax
  jz .mine
.spin:
  pause
  cmp dword [r8], 0
  jne .spin
  jmp .acquire
.mine:
  inc qword [r8 + 64]
  mov dword [r8], 0
  LOOP_END

ticket_lock:
  LOOP_BEGIN
  mov eax, 1
  lock xadd [r8], eax
.spin:
  cmp [r8 + 4], eax
  je .mine
  pause
  jmp .spin
.mine:
  inc qword [r8 + 64]
  inc dword [r8 + 4]
  LOOP_END

bit_lock:
  LOOP_BEGIN
.acquire:
  lock bts qword [r8], 37
  jnc .mine
  pause
  jmp .acquire
.mine:
  inc qword [r8 + 64]
  lock btr qword [r8], 37
  LOOP_END

arithmetic:
  mov ecx, edi
  mov edx, 1
  shl edx, cl
  mov r10d, 0xff
  lea ecx, [rdi * 8]
  shl r10d, cl
  mov r11d, r10d
  not r11d
  LOOP_BEGIN
  lock inc qword [r8]
  lock add qword [r8 + 8], 3
  lock sub qword [r8 + 16], 2
  mov eax, 5
  lock xadd [r8 + 24], rax
  lock xor [r8 + 32], edx
  lock or [r8 + 36], r10d
  lock and [r8 + 36], r11d
  LOOP_END

neighbours:
  LOOP_BEGIN
  inc byte [r8 + rdi]
  LOOP_END

compare:
  LOOP_BEGIN
  mov rax, [r8]
.again8:
  lea rdx, [rax + 1]
  lock cmpxchg [r8], rdx
  jne .again8
  mov ax, [r8 + 16]
.again2:
  lea edx, [rax + 1]
  lock cmpxchg [r8 + 16], dx
  jne .again2
  LOOP_END

compare8b:
  LOOP_BEGIN
  mov eax, [r8]
  mov edx, [r8 + 4]
.again:
  mov ebx, eax
  mov ecx, edx
  add ebx, 1
  adc ecx, 0
  lock cmpxchg8b [r8]
  jne .again
  LOOP_END

compare16b:
  LOOP_BEGIN
  mov rax, [r8]
  mov rdx, [r8 + 8]
.again:
  lea rbx, [rax + 1]
  lea rcx, [rdx + 2]
  lock cmpxchg16b [r8]
  jne .again
  LOOP_END

lines:
  LOOP_BEGIN
  mov eax, 1
  lock xadd [r8 + 60], rax
  lock inc qword [r8 + 126]
  LOOP_END

pages:
  LOOP_BEGIN
  mov eax, 1
  lock xadd [r8 + 0xffc], rax
  LOOP_END

pages_compare:
  LOOP_BEGIN
  mov rax, [r8 + 0xffd]
.again:
  lea rdx, [rax + 1]
  lock cmpxchg [r8 + 0xffd], rdx
  jne .again
  LOOP_END

aliases:
  test edi, 1
  mov r10d, shared
  mov r11, VA
  cmovnz r10, r11
  LOOP_BEGIN
  mov eax, 1
  lock xadd [r10], rax
  mov eax, 1
  lock xadd [r10 + 0xffc], rax
  LOOP_END

beside:
  LOOP_BEGIN
  lock inc qword [abs beside_code]
  LOOP_END
  align 8
beside_code: dq 0

%macro ADD_16 1
  mov rax, [%1]
  mov rdx, [%1 + 8]
%%again:
  lea rbx, [rax + 1]
  lea rcx, [rdx + 2]
  lock cmpxchg16b [%1]
  jne %%again
%endmacro
beside_16:
  LOOP_BEGIN
  ADD_16 abs beside_code_16
  LOOP_END
  align 16
beside_code_16: dq 0, 0
flushed:
  LOOP_BEGIN
  mov rax, cr3
  mov cr3, rax
  mov eax, 1
  lock xadd [r8], rax
  mov rax, cr3
  mov cr3, rax
  mov eax, 1
  lock xadd [r8 + 60], rax
  LOOP_END
flushed_16:
  LOOP_BEGIN
  mov rax, cr3
  mov cr3, rax
  ADD_16 r8
  LOOP_END

; CPU 0 stores all zeros and all ones in turn, the others must never see a mixture.
tear:
  xor edx, edx
  LOOP_BEGIN
  test edi, edi
  jnz .reader
  not rdx
  mov [r8], rdx
  mov [abs tear_code], rdx
  jmp .next
.reader:
  mov rax, [r8]
  lea rcx, [rax + 1]
  cmp rcx, 1
  jbe .whole
  lock inc qword [r8 + 64]
.whole:
  mov rax, [abs tear_code]
  lea rcx, [rax + 1]
  cmp rcx, 1
  jbe .next
  lock inc qword [r8 + 128]
.next:
  LOOP_END
  align 8
tear_code: dq 0
