; husk: code that another CPU changes, and translations that another CPU takes away (SDM vol. 3, 8.1.3 and 4.10.5)
%define CPUS 2
%include "smp.inc"
; Rounds of each test; fewer, but not below LEAST, when its time is over: CPUs that share one of the host's meet seldom.
%define ROUNDS 1000
%define LEAST 20
%define CYCLES 800000000

; In the order of use: what CPU 0 says, what CPU 1 says, a cache line each
phase equ shared
answer equ shared + 64
started equ shared + 128
published equ shared + 192
acknowledged equ shared + 256
bad equ shared + 320
stop equ shared + 384
seen equ shared + 448
breakpoints equ shared + 512
PAGE_A equ 0x400000
PAGE_B equ 0x401000

%macro ROUNDS_INTO 1
  mov %1, ROUNDS
  imul %1, [loops]
%endmacro
; CPU 0 has done a round (R9: those left). ZF: it was the last. Clobbers RAX, RDX.
%macro ROUND_DONE 0
  call round_done
%endmacro
%macro BOTH 1
  mov edi, shared
  mov ecx, 0x3000 / 8
  xor eax, eax
  rep stosq
  call start_time
  RUN %1
%endmacro

tests:
  SET_GATE IPI_VECTOR, SEL_CODE64, ipi_serialize, 0x8e
  BOTH change_serialized
  mov rax, [abs bad]
  CHECK "code changed by another CPU is seen behind CPUID", rax, 0
  BOTH change_eventually
  mov rax, [abs bad]
  CHECK "and without, soon, and never half of it", rax, 0
  BOTH change_self
  mov rax, [abs bad]
  CHECK "two CPUs patch code of their own in one cache line", rax, 0
  SET_GATE 3, SEL_CODE64, breakpoint, 0x8e
  BOTH poke
  mov rax, [abs bad]
  CHECK "code patched under INT3 is old or new", rax, 0
  mov rax, [abs breakpoints]
  NOTE "breakpoints met", rax

  ; PAGE_A holds a function that returns 0xa, and 0xa at 0x100; PAGE_B the same with 0xb.
  mov edi, PAGE_A
  mov edx, 0xa
  call make_page
  mov edi, PAGE_B
  mov edx, 0xb
  call make_page
  SET_GATE IPI_VECTOR, SEL_CODE64, ipi_invlpg, 0x8e
  mov qword [touch], touch_read
  BOTH shoot
  mov rax, [abs bad]
  CHECK "a read after a shoot-down by INVLPG", rax, 0
  mov qword [touch], touch_call
  BOTH shoot
  mov rax, [abs bad]
  CHECK "a call after it", rax, 0
  mov qword [touch], touch_write
  BOTH shoot
  mov rax, [abs bad]
  CHECK "a store after it", rax, 0
  SET_GATE IPI_VECTOR, SEL_CODE64, ipi_reload, 0x8e
  mov qword [touch], touch_read
  BOTH shoot
  mov rax, [abs bad]
  CHECK "a read after a shoot-down by CR3", rax, 0
  mov qword [touch], touch_call
  BOTH shoot
  mov rax, [abs bad]
  CHECK "a call after it (CR3)", rax, 0
  SET_GATE IPI_VECTOR, SEL_CODE64, ipi_invlpg, 0x8e
  SET_GATE 14, SEL_CODE64, page_fault, 0x8e
  mov qword [touch], touch_absent
  mov qword [other_entry], 0
  BOTH shoot
  mov rax, [abs bad]
  CHECK "no access after the page was taken away", rax, 0
  mov qword [touch], touch_absent_call
  BOTH shoot
  mov rax, [abs bad]
  CHECK "no call after it", rax, 0
  mov qword [other_entry], PAGE_A + 1
  mov qword [touch], touch_protected
  BOTH shoot
  mov rax, [abs bad]
  CHECK "no store after the page was made read-only", rax, 0
  ret

round_done:
  inc qword [rounds_done]
  dec r9
  jz .end
  cmp qword [rounds_done], LEAST
  jb .end                       ; ZF is clear
  rdtsc
  shl rdx, 32
  or rax, rdx
  cmp rax, [deadline]
  jb .end
  xor eax, eax
.end:
  ret
start_time:
  mov qword [rounds_done], 0
  rdtsc
  shl rdx, 32
  or rdx, rax
  mov rax, CYCLES
  imul rax, [loops]
  add rax, rdx
  mov [deadline], rax
  ret
  align 8
rounds_done: dq 0
deadline: dq 0

make_page:
  mov eax, 0xb8                 ; mov eax, EDX; ret
  mov [rdi], al
  mov [rdi + 1], edx
  mov byte [rdi + 5], 0xc3
  mov [rdi + 0x100], rdx
  ret

; --- CPU 0 changes the constant that the function returns, tells, and CPU 1 serializes before it calls ---
change_serialized:
  ROUNDS_INTO r9
  xor ebx, ebx
  push rdi
  call barrier
  pop rdi
  test edi, edi
  jnz .other
.next:
  inc ebx
  mov [abs patched + 1], ebx
  mov [abs phase], ebx
.wait:
  pause
  cmp [abs answer], ebx
  jne .wait
  ROUND_DONE
  jnz .next
  mov dword [abs stop], 1
  ret
.other:
  mov r8d, ebx
.new:
  pause
  cmp dword [abs stop], 0
  jne .end
  cmp r8d, [abs phase]
  je .new
  inc r8d
  push rbx
  xor eax, eax
  cpuid
  pop rbx
  call patched
  cmp eax, r8d
  je .right
  inc qword [abs bad]
.right:
  mov [abs answer], r8d
  jmp .new
.end:
  ret
  align 64
patched:
  mov eax, 0
  ret

; --- CPU 1 calls on and on; the constant is 4 bytes, aligned, and all alike ---
change_eventually:
  ROUNDS_INTO r9
  push rdi
  call barrier
  pop rdi
  test edi, edi
  jnz .other
  xor ebx, ebx
.next:
  inc ebx
  imul eax, ebx, 0x01010101
  mov [abs patched_often + 1], eax
.wait:                          ; the new one must come, without any help
  pause
  cmp [abs seen], eax
  jne .wait
  cmp bl, 0xff
  jne .go_on
  xor ebx, ebx
.go_on:
  ROUND_DONE
  jnz .next
  mov dword [abs stop], 1
  ret
.other:
  call patched_often
  movzx ecx, al
  imul ecx, ecx, 0x01010101
  cmp eax, ecx
  je .whole
  inc qword [abs bad]
.whole:
  mov [abs seen], eax
  cmp dword [abs stop], 0
  je .other
  ret
  align 64
  times 3 nop                   ; so that the constant is aligned
patched_often:
  mov eax, 0
  ret

; --- each CPU writes the constant of a function of its own and calls it ---
change_self:
  ROUNDS_INTO r9
  mov r8, own0
  mov rax, own1
  test edi, edi
  cmovnz r8, rax
  push rdi
  call barrier
  pop rdi
  xor ebx, ebx
.next:
  inc ebx
  mov [r8 + 1], ebx
  call r8
  cmp eax, ebx
  je .right
  lock inc qword [abs bad]
.right:
  dec r9
  jnz .next
  ret
  align 64
own0:
  mov eax, 0
  ret
  align 8
own1:
  mov eax, 0
  ret

; --- Linux's text_poke_bp: INT3 over the first byte, the rest, the first byte, each made known to the others ---
poke:
  ROUNDS_INTO r9
  push rdi
  call barrier
  pop rdi
  test edi, edi
  jnz .other
  xor ebx, ebx
.next:
  xor ebx, 1
  mov byte [abs poked], 0xcc
  call sync_other
  mov eax, 0x11111111           ; mov eax, 0x11111111 or 0x22222222
  test ebx, ebx
  jz .first
  mov eax, 0x22222222
.first:
  mov [abs poked + 1], eax
  call sync_other
  mov byte [abs poked], 0xb8
  call sync_other
  mov [abs published], eax
  ROUND_DONE
  jnz .next
  mov dword [abs stop], 1
  ret
.other:
  sti
.again:
  call poked
  cmp eax, 0x11111111
  je .fine
  cmp eax, 0x22222222
  je .fine
  cmp eax, 0x33333333           ; the breakpoint's answer
  je .fine
  inc qword [abs bad]
.fine:
  cmp dword [abs stop], 0
  je .again
  cli
  ret
  align 64
  times 3 nop
poked:
  mov eax, 0x11111111
  ret

; CPU 0: the other has served an interrupt that was sent now. Keeps RAX.
sync_other:
  push rax
  inc dword [abs started]
  SEND_IPI IPI_VECTOR
  mov eax, [abs started]
.wait:
  pause
  cmp [abs acknowledged], eax
  jne .wait
  pop rax
  ret
ipi_serialize:
  push rax
  push rbx
  push rcx
  push rdx
  xor eax, eax
  cpuid
  inc dword [abs acknowledged]
  APIC_WRITE 0xb0, 0
  pop rdx
  pop rcx
  pop rbx
  pop rax
  iretq
breakpoint:
  inc qword [abs breakpoints]
  mov eax, 0x33333333
  add qword [rsp], 5            ; behind the constant
  dec qword [rsp]               ; of which INT3 was the first byte
  iretq

; --- CPU 0 gives VA another page again and again; when CPU 1 has flushed, it must see that one only ---
; [published]: how many changes are in force; [started]: how many were begun. Between equal values nothing is going on.
shoot:
  ROUNDS_INTO r9
  test edi, edi
  jnz .other
  MAP 0, PAGE_A, 3
  call barrier
  xor ebx, ebx
.next:
  inc ebx
  mov [abs started], ebx
  mov rax, PAGE_A + 3
  test ebx, 1
  cmovnz rax, [other_entry]
  mov [abs test_pt], rax
  mfence
  SEND_IPI IPI_VECTOR
.wait:
  pause
  cmp [abs acknowledged], ebx
  jne .wait
  mov [abs published], ebx
  mov ecx, 200                  ; time to look
.look:
  pause
  dec ecx
  jnz .look
  ROUND_DONE
  jnz .next
  mov dword [abs stop], 1
  ret
.other:
  mov rax, cr3
  mov cr3, rax
  call barrier
  mov rbx, VA
  sti
.again:
  mov r8d, [abs published]
  call [touch]                  ; EAX: what was there, or 0
  cmp r8d, [abs started]
  jne .busy                     ; a change was under way
  test r8d, 1
  mov ecx, 0xa
  cmovnz ecx, [odd_value]
  cmp eax, ecx
  je .busy
  inc qword [abs bad]
.busy:
  cmp dword [abs stop], 0
  je .again
  cli
  ret

touch_read:
  mov dword [odd_value], 0xb
  mov rax, [rbx + 0x100]
  ret
touch_call:
  mov dword [odd_value], 0xb
  jmp rbx
; Stores what it expects to be there, and looks through the other mapping where it came to be.
touch_write:
  mov dword [odd_value], 0xb
  mov qword [abs PAGE_A + 0x200], 0
  mov qword [abs PAGE_B + 0x200], 0
  mov qword [rbx + 0x200], 1
  mov eax, 0xa
  mov ecx, 0xb
  cmp qword [abs PAGE_B + 0x200], 1
  cmove eax, ecx
  ret
touch_absent:
  mov dword [odd_value], 0
  mov qword [resume], .end
  xor eax, eax
  mov rax, [rbx + 0x100]
.end:
  ret
touch_absent_call:
  mov dword [odd_value], 0
  mov qword [resume], .end
  push rbx                      ; RSP at the fault is above this
  mov [resume_rsp], rsp
  xor eax, eax
  call rbx
.end:
  mov rsp, [resume_rsp]
  pop rbx
  ret
touch_protected:
  mov dword [odd_value], 0
  mov qword [resume], .end
  xor eax, eax
  mov dword [rbx + 0x300], 1
  mov eax, 0xa
.end:
  ret
page_fault:
  add rsp, 8
  push rax
  mov rax, [resume]
  mov [rsp + 8], rax
  pop rax
  iretq
ipi_invlpg:
  push rax
  mov rax, VA
  invlpg [rax]
  inc dword [abs acknowledged]
  APIC_WRITE 0xb0, 0
  pop rax
  iretq
ipi_reload:
  push rax
  mov rax, cr3
  mov cr3, rax
  inc dword [abs acknowledged]
  APIC_WRITE 0xb0, 0
  pop rax
  iretq
  align 8
touch: dq 0
other_entry: dq PAGE_B + 3
odd_value: dq 0
resume: dq 0
resume_rsp: dq 0
