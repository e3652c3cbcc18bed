; husk: task switches by JMP, CALL, INT and IRET, 32-bit and 16-bit TSS (SDM 3A chapter 7)
%include "frame32.inc"
%define S(n) (SEL_FREE + (n) * 8)
%define T32 S(0)
%define T16 S(1)
%define TGATE S(2)

; NEW_TASK entry: fills the 32-bit TSS `task`
%macro NEW_TASK 1
  mov edi, task
  mov ecx, 26
  xor eax, eax
  rep stosd
  mov dword [task + 32], %1
  mov dword [task + 36], 2
  mov dword [task + 40], 0xaaaa0001
  mov dword [task + 44], 0xcccc0002
  mov dword [task + 56], task_stack
  mov dword [task + 72], SEL_DATA
  mov dword [task + 76], SEL_CODE32
  mov dword [task + 80], SEL_DATA
  mov dword [task + 84], SEL_DATA
  mov dword [task + 88], SEL_DATA
  mov dword [task + 92], SEL_DATA
  mov word [task + 102], 104
  SET_DESC T32, task, 103, 0x89, 0
%endmacro
%macro TYPE 3                   ; name, selector, want access byte
  movzx eax, byte [gdt + (%2) + 5]
  CHECK %1, eax, %3
%endmacro

main:
  ; --- JMP ---
  NEW_TASK by_jmp
  mov ebx, 0x12345678
  jmp T32:0
  CHECK "jmp back keeps EBX", ebx, 0x12345678
  CHECK "new task's EAX", [seen_eax], 0xaaaa0001
  CHECK "new task's ECX", [seen_ecx], 0xcccc0002
  mov eax, [seen_flags]
  and eax, 0x4000
  CHECK "jmp does not set NT", eax, 0
  CHECK "old TSS is not busy during", [seen_old], 0x89
  CHECK "new TSS is busy during", [seen_new], 0x8b
  TYPE "the left task is available again", T32, 0x89
  TYPE "this task is busy", SEL_TSS, 0x8b
  mov eax, [seen_cr0]
  and eax, 8
  CHECK "a switch sets CR0.TS", eax, 8
  clts
  CHECK "jmp leaves the link alone", [task], 0
  CHECK "old task's EIP was saved", [task + 32], by_jmp.back
  ; --- CALL and IRET ---
  NEW_TASK by_call
  call T32:0
  mov eax, [seen_flags]
  and eax, 0x4000
  CHECK "call sets NT", eax, 0x4000
  CHECK "call sets the link", [seen_link], SEL_TSS
  CHECK "old TSS stays busy during call", [seen_old], 0x8b
  TYPE "iret frees the task", T32, 0x89
  TYPE "iret leaves the first busy", SEL_TSS, 0x8b
  mov eax, [task + 36]
  and eax, 0x4000
  CHECK "iret saves EFLAGS with NT clear", eax, 0
  pushfd
  pop eax
  and eax, 0x4000
  CHECK "the first task has no NT", eax, 0
  clts
  ; --- a task gate ---
  NEW_TASK by_call
  SET_GATE 0x90, T32, 0, 0x85
  int 0x90
  CHECK "int through a task gate sets the link", [seen_link], SEL_TSS
  clts
  SET_CALLGATE TGATE, T32, 0, 0xe5, 0
  NEW_TASK by_call
  call TGATE:0
  CHECK "call through a task gate", [seen_link], SEL_TSS
  clts
  ; --- exception with an error code to a task ---
  NEW_TASK by_fault
  SET_GATE 13, T32, 0, 0x85
  mov eax, 0x1f8
.gp:
  mov fs, ax
.gp_end:
  clts
  CHECK "exception task gets the error code", [seen_error], 0x1f8
  CHECK "the faulting task's EIP is saved", [seen_eip], .gp
  SET_GATE 13, SEL_CODE32, stubs + 13 * 16, 0x8e
  ; --- double fault with a stack that is gone ---
  NEW_TASK by_double
  SET_GATE 8, T32, 0, 0x85
  mov [saved_esp], esp
  SET_DESC S(5), scratch, 0xfff, 0x92, 4
  mov eax, S(5)
  mov ss, ax
  mov esp, 0x4000
.push:
  push eax
.resumed:
  mov eax, SEL_DATA             ; for the machine that did not fault
  mov ss, eax
  mov esp, [saved_esp]
  clts
  CHECK "double fault by a task gate", [seen_error], 0
  CHECK "it came for the push", [seen_eip], .push
  SET_GATE 8, SEL_CODE32, stubs + 8 * 16, 0x8e
  ; --- a 16-bit TSS ---
  mov edi, task16
  mov ecx, 11
  xor eax, eax
  rep stosd
  mov word [task16 + 14], 0x100         ; IP in its own segment
  mov word [task16 + 16], 2
  mov word [task16 + 18], 0x1616
  mov word [task16 + 26], 0xff0
  mov word [task16 + 34], SEL_DATA      ; ES
  mov word [task16 + 36], S(4)          ; CS
  mov word [task16 + 38], SEL_DATA      ; SS
  mov word [task16 + 40], SEL_DATA      ; DS
  SET_DESC S(4), code16 - 0x100, 0xffff, 0x9b, 0
  SET_DESC T16, task16, 43, 0x81, 0
  mov word [task16 + 38], S(6)
  SET_DESC S(6), scratch, 0xffff, 0x93, 0
  call T16:0
  clts
  mov eax, [seen_eax]
  and eax, 0xffff
  CHECK "16-bit task's AX", eax, 0x1616
  TYPE "16-bit TSS is free again", T16, 0x81
  ; --- errors ---
  NEW_TASK by_call
  or byte [gdt + T32 + 5], 2
  TRY
  jmp T32:0
  ENDTRY
  FAULT "jmp to a busy TSS", 13, T32
  TRY
  call T32:0
  ENDTRY
  FAULT "call to a busy TSS", 13, T32
  TRY
  int 0x90
  ENDTRY
  FAULT "int to a busy TSS", 13, T32 + 0
  and byte [gdt + T32 + 5], 0x7d
  TRY
  jmp T32:0
  ENDTRY
  FAULT "jmp to a TSS not present", 11, T32
  or byte [gdt + T32 + 5], 0x80
  mov word [gdt + T32], 102
  TRY
  jmp T32:0
  ENDTRY
  FAULT "TSS limit below 103", 10, T32
  mov word [gdt + T32], 103
  mov dword [task], SEL_DATA
  TRY
  push dword 0x4002
  popfd
  mov word [tss], SEL_DATA
  iretd
  ENDTRY
  FAULT "iret with NT and a link that is no TSS", 10, SEL_DATA
  mov word [tss], T32
  and byte [gdt + T32 + 5], 0xfd
  TRY
  push dword 0x4002
  popfd
  iretd
  ENDTRY
  FAULT "iret with NT to a TSS that is not busy", 10, T32
  TRY
  USER
  jmp T32:0
  ENDTRY
  FAULT "jmp to a DPL 0 TSS from ring 3", 13, T32
  ret

%macro LOOK 0
  mov [seen_eax], eax
  mov [seen_ecx], ecx
  pushfd
  pop dword [seen_flags]
  movzx eax, byte [gdt + SEL_TSS + 5]
  mov [seen_old], eax
  movzx eax, byte [gdt + T32 + 5]
  mov [seen_new], eax
  mov eax, cr0
  mov [seen_cr0], eax
  movzx eax, word [task]
  mov [seen_link], eax
%endmacro
by_jmp:
  LOOK
  jmp SEL_TSS:0
.back:
by_call:
  LOOK
  iretd
by_fault:
  pop dword [seen_error]
  mov eax, [tss + 32]
  mov [seen_eip], eax
  mov dword [tss + 32], main.gp_end
  iretd
by_double:
  pop dword [seen_error]
  mov eax, [tss + 32]
  mov [seen_eip], eax
  mov dword [tss + 32], main.resumed
  mov eax, [saved_esp]
  mov [tss + 56], eax
  mov dword [tss + 80], SEL_DATA
  iretd
  bits 16
code16:
  mov [dword seen_eax], ax
  iret
  bits 32
  align 16
task: times 128 db 0
task16: times 64 db 0
seen_eax: dd 0
seen_ecx: dd 0
seen_flags: dd 0
seen_old: dd 0
seen_new: dd 0
seen_cr0: dd 0
seen_link: dd 0
seen_error: dd 0
seen_eip: dd 0
saved_esp: dd 0
task_stack equ image_start + 0x5e000
