; husk: litmus tests of x86-TSO with three and four CPUs: all agree on one order of stores (SDM vol. 3, 8.2.3)
%define CPUS 4
%define REPEATS 2
%include "litmus.inc"

tests:
  FORBIDDEN "IRIW", iriw, iriw_judge
  FORBIDDEN "WRC", wrc, wrc_judge
  FORBIDDEN "RWC with MFENCE", rwc, rwc_judge
  FORBIDDEN "ISA2", isa2, isa2_judge
  ret
; --- independent reads of independent writes: all see one order of stores ---
TEST_BODY iriw
P 0
  mov dword [rsi], 1
END_P
P 1
  mov dword [rbx], 1
END_P
P 2
  mov eax, [rsi]
  mov ecx, [rbx]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
P 3
  mov eax, [rbx]
  mov ecx, [rsi]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
END_TEST
iriw_judge:
  mov rax, RES(2, 0)
  and rax, RES(3, 0)
  xor rax, 1
  or rax, RES(2, 1)
  or rax, RES(3, 1)
  ret

; --- write to read causality: x = 1 || a = x, y = 1 || b = y, c = x: never 1, 1, 0 ---
TEST_BODY wrc
P 0
  mov dword [rsi], 1
END_P
P 1
  mov eax, [rsi]
  mov [r14], rax
  mov [rbx], eax                ; 1 only if it was read
END_P
P 2
  mov eax, [rbx]
  mov ecx, [rsi]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
END_TEST
wrc_judge:
  mov rax, RES(2, 0)
  xor rax, 1
  or rax, RES(2, 1)
  ret

; --- read to write causality: x = 1 || a = x, b = y || y = 1, fence, c = x: never 1, 0, 0 ---
TEST_BODY rwc
P 0
  mov dword [rsi], 1
END_P
P 1
  mov eax, [rsi]
  mov ecx, [rbx]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
P 2
  mov dword [rbx], 1
  mfence
  mov eax, [rsi]
  mov [r14], rax
END_P
END_TEST
rwc_judge:
  mov rax, RES(1, 0)
  xor rax, 1
  or rax, RES(1, 1)
  or rax, RES(2, 0)
  ret

; --- ISA2: x = 1, y = 1 || z = y || a = z, b = x: never a = 1, b = 0 (z beside y) ---
TEST_BODY isa2
P 0
  mov dword [rsi], 1
  mov dword [rbx], 1
END_P
P 1
  mov eax, [rbx]
  mov [rbx + 32], eax
END_P
P 2
  mov eax, [rbx + 32]
  mov ecx, [rsi]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
END_TEST
isa2_judge:
  jmp wrc_judge

