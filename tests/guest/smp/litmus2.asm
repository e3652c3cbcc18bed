; husk: litmus tests of x86-TSO with two CPUs (SDM vol. 3, 8.2.3; Owens, Sarkar, Sewell 2009): what must never be seen
%define CPUS 2
%include "litmus.inc"

tests:
  ALLOWED "SB, 0 and 0 (may be seen)", sb, both_zero
  FORBIDDEN "SB with MFENCE", sb_mfence, both_zero
  FORBIDDEN "SB with XCHG", sb_xchg, both_zero
  FORBIDDEN "SB with a locked instruction elsewhere", sb_lock, both_zero
  FORBIDDEN "SB with LOCK CMPXCHG16B elsewhere", sb_cmpxchg16b, both_zero
  FORBIDDEN "SB with a locked instruction across pages", sb_pages, both_zero
  FORBIDDEN "SB with CPUID", sb_cpuid, both_zero
  FORBIDDEN "SB with a move to CR3", sb_cr3, both_zero
  FORBIDDEN "SB with INVLPG", sb_invlpg, both_zero
  FORBIDDEN "SB with IRETQ", sb_iretq, both_zero
  FORBIDDEN "MP", mp, mp_judge
  FORBIDDEN "MP, data by REP STOSQ", mp_string, mp_judge
  FORBIDDEN "MP, data by MOVNTI and SFENCE", mp_nontemporal, mp_judge
  FORBIDDEN "MP, data by SSE", mp_sse, mp_judge
  FORBIDDEN "MP, flag by LOCK", mp_lock, mp_judge
  FORBIDDEN "LB", lb, both_one
  FORBIDDEN "S", s, s_judge
  FORBIDDEN "R with MFENCE", r_mfence, r_judge
  FORBIDDEN "2+2W", two_two_w, two_two_w_judge
  FORBIDDEN "CoRR", corr, corr_judge
  ret

; --- store buffering: x = 1, a = y || y = 1, b = x ---
%macro SB 2+                    ; name, what lies between the store and the load
TEST_BODY %1
P 0
  mov dword [rsi], 1
  %2
  mov eax, [rbx]
  mov [r14], eax
END_P
P 1
  mov dword [rbx], 1
  %2
  mov eax, [rsi]
  mov [r14], eax
END_P
END_TEST
%endmacro
%macro SERIALIZE_BY_CPUID 0
  push rbx
  xor eax, eax
  cpuid
  pop rbx
%endmacro
%macro SERIALIZE_BY_IRETQ 0
  mov rcx, rsp
  push qword SEL_DATA
  push rcx
  pushfq
  push qword SEL_CODE64
  mov rax, %%back
  push rax
  iretq
%%back:
%endmacro
%macro RELOAD_CR3 0
  mov rax, cr3
  mov cr3, rax
%endmacro
%macro LOCKED_16 0
  push rbx
  xor eax, eax
  xor edx, edx
  xor ebx, ebx
  xor ecx, ecx
  lock cmpxchg16b [abs elsewhere]
  pop rbx
%endmacro
%macro LOCKED_ACROSS 0
  mov eax, edi
  shl eax, 14
  lock inc qword [abs rax + ap_stacks - 0x3000 - 4]     ; the low end of this CPU's stack
%endmacro
SB sb, nop
SB sb_mfence, mfence
SB sb_lock, lock or dword [rsp - 8], 0
SB sb_cmpxchg16b, LOCKED_16
SB sb_pages, LOCKED_ACROSS
SB sb_cpuid, SERIALIZE_BY_CPUID
SB sb_cr3, RELOAD_CR3
SB sb_invlpg, invlpg [rsp]
SB sb_iretq, SERIALIZE_BY_IRETQ
TEST_BODY sb_xchg
P 0
  mov eax, 1
  xchg [rsi], eax
  mov eax, [rbx]
  mov [r14], eax
END_P
P 1
  mov eax, 1
  xchg [rbx], eax
  mov eax, [rsi]
  mov [r14], eax
END_P
END_TEST
both_zero:
  mov rax, RES(0, 0)
  or rax, RES(1, 0)
  ret

; --- message passing: x = 1, y = 1 || a = y, b = x: never a = 1, b = 0 ---
%macro MP 2+
TEST_BODY %1
P 0
  %2
END_P
P 1
  mov eax, [rbx]
  mov ecx, [rsi]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
END_TEST
%endmacro
%macro MP_PLAIN 0
  mov dword [rsi], 1
  mov dword [rbx], 1
%endmacro
%macro MP_STRING 0
  push rdi
  mov rdi, rsi
  mov eax, 1
  mov ecx, 4
  rep stosq
  pop rdi
  mov dword [rbx], 1
%endmacro
%macro MP_NT 0
  mov eax, 1
  movnti [rsi], eax
  sfence
  mov dword [rbx], 1
%endmacro
%macro MP_SSE 0
  mov eax, 1
  movd xmm0, eax
  movaps [rsi], xmm0
  movss [rbx], xmm0
%endmacro
%macro MP_LOCKED 0
  mov dword [rsi], 1
  lock inc dword [rbx]
%endmacro
MP mp, MP_PLAIN
MP mp_string, MP_STRING
MP mp_nontemporal, MP_NT
MP mp_sse, MP_SSE
MP mp_lock, MP_LOCKED
mp_judge:
  mov rax, RES(1, 0)
  xor rax, 1
  or rax, RES(1, 1)
  ret

; --- load buffering: a = x, y = 1 || b = y, x = 1: never both 1 ---
TEST_BODY lb
P 0
  mov eax, [rsi]
  mov dword [rbx], 1
  mov [r14], rax
END_P
P 1
  mov eax, [rbx]
  mov dword [rsi], 1
  mov [r14], rax
END_P
END_TEST
both_one:
  mov rax, RES(0, 0)
  and rax, RES(1, 0)
  cmp rax, 1
  ret

; --- S: x = 2, y = 1 || a = y, x = 1: never a = 1 and x = 2 at the end ---
TEST_BODY s
P 0
  mov dword [rsi], 2
  mov dword [rbx], 1
END_P
P 1
  mov eax, [rbx]
  mov dword [rsi], 1
  mov [r14], rax
END_P
END_TEST
s_judge:
  cmp RES(1, 0), 1
  jne .end
  cmp dword [rsi], 2
.end:
  ret

; --- R: x = 1, y = 1 || y = 2, fence, a = x: never y = 2 at the end and a = 0 ---
TEST_BODY r_mfence
P 0
  mov dword [rsi], 1
  mfence
  mov dword [rbx], 1
END_P
P 1
  mov dword [rbx], 2
  mfence
  mov eax, [rsi]
  mov [r14], rax
END_P
END_TEST
r_judge:
  cmp dword [rbx], 2
  jne .end
  cmp RES(1, 0), 0
.end:
  ret

; --- 2+2W: x = 1, y = 2 || y = 1, x = 2: never both 1 at the end ---
TEST_BODY two_two_w
P 0
  mov dword [rsi], 1
  mov dword [rbx], 2
END_P
P 1
  mov dword [rbx], 1
  mov dword [rsi], 2
END_P
END_TEST
two_two_w_judge:
  cmp dword [rsi], 1
  jne .end
  cmp dword [rbx], 1
.end:
  ret

; --- coherence: x = 1 || a = x, b = x: never a = 1, b = 0 ---
TEST_BODY corr
P 0
  mov dword [rsi], 1
END_P
P 1
  mov eax, [rsi]
  mov ecx, [rsi]
  mov [r14], rax
  mov [r14 + 8], rcx
END_P
END_TEST
corr_judge:
  jmp mp_judge

  align 16
elsewhere: dq 0, 0
