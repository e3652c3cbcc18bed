; husk: exceptions: vectors, error codes, saved RIP, double faults, IST, priorities (SDM 3A chapter 6)
%include "frame64.inc"

main:
  TRY
  xor edx, edx
  xor ecx, ecx
  mov eax, 1
.div:
  div ecx
  ENDTRY
  FAULT "divide by zero", 0, 0
  mov rax, .div
  CHECK "#DE saves the instruction", [got_rip], rax
  TRY
  mov edx, 2
  mov ecx, 1
  div ecx
  ENDTRY
  FAULT "quotient too large", 0, 0
  TRY
  mov eax, 0x80000000
  cdq
  mov ecx, -1
  idiv ecx
  ENDTRY
  FAULT "idiv overflow", 0, 0
  TRY
  int3
.after_bp:
  ENDTRY
  FAULT "int3", 3, 0
  mov rax, .after_bp
  CHECK "int3 saves the next instruction", [got_rip], rax
  TRY
.int1:
  db 0xf1
.after_int1:
  ENDTRY
  FAULT "int1", 1, 0
  mov rax, .after_int1
  CHECK "int1 saves the next instruction", [got_rip], rax
  TRY
  ud2
  ENDTRY
  FAULT "ud2", 6, 0
  TRY
  db 0x0f, 0xb9, 0xc0           ; ud1
  ENDTRY
  FAULT "ud1", 6, 0
  TRY
  db 0xf0
  nop
  ENDTRY
  FAULT "lock nop", 6, 0
  TRY
  db 0xf0, 0x01, 0xc0           ; lock add eax, eax
  ENDTRY
  FAULT "lock with a register", 6, 0
  TRY
  db 0x37                       ; aaa
  ENDTRY
  FAULT "aaa in 64-bit mode", 6, 0
  TRY
  times 8 db 0x66
  times 7 db 0x66
  nop
  ENDTRY
  FAULT "16 bytes of instruction", 13, 0
  TRY
  times 14 db 0x66
  nop
  ENDTRY
  NOFAULT "15 bytes of instruction"
  TRY
  int 0x82
  ENDTRY
  FAULT "int n", 0x82, 0
  TRY
  USER
  int 3
  ENDTRY
  FAULT "int 3 through a DPL 0 gate from ring 3", 13, 3 * 8 + 2
  TRY
  USER
  int 0x82
  ENDTRY
  FAULT "int n through a DPL 0 gate from ring 3", 13, 0x82 * 8 + 2
  TRY
  USER
  db 0xf1
  ENDTRY
  FAULT "int1 does not heed the gate's DPL", 1, 0
  TRY
  USER
  ud2
  ENDTRY
  FAULT "an exception does not heed the gate's DPL", 6, 0
  ; --- gates ---
  and byte [idt + 0x83 * 16 + 5], 0x7f
  TRY
  int 0x83
  ENDTRY
  FAULT "int through a gate not present", 11, 0x83 * 8 + 2
  mov byte [idt + 0x84 * 16 + 5], 0x85 ; a task gate
  TRY
  int 0x84
  ENDTRY
  FAULT "int through a task gate in 64-bit mode", 13, 0x84 * 8 + 2
  mov word [idt + 0x85 * 16 + 2], SEL_CODE32
  TRY
  int 0x85
  ENDTRY
  FAULT "gate to 32-bit code in long mode", 13, SEL_CODE32
  mov word [idt + 0x86 * 16 + 2], 0
  TRY
  int 0x86
  ENDTRY
  FAULT "gate with a null selector", 13, 0
  mov word [idt + 0x87 * 16 + 2], 0x1f8
  TRY
  int 0x87
  ENDTRY
  FAULT "gate to an empty descriptor", 13, 0x1f8
  mov dword [idt + 0x88 * 16 + 8], 0x00009000
  TRY
  int 0x88
  ENDTRY
  FAULT "gate with a non-canonical offset", 13, 0
  lidt [short_idt]
  TRY
  int 0x89
  ENDTRY
  lidt [idt_pointer]
  FAULT "int past the IDT limit", 13, 0x89 * 8 + 2
  ; --- IST ---
  mov byte [idt + 0x8a * 16 + 4], 1
  TRY
  int 0x8a
  ENDTRY
  CHECK "IST 1 stack", [got_frame], ist1_top - 40
  TRY
  USER
  int 0x80
  ENDTRY
  CHECK "RSP0 stack from ring 3", [got_frame], kstack_top - 40
  ; --- double faults (table 6-5) ---
  mov byte [idt + 8 * 16 + 4], 1        ; #DF on its own stack
  and byte [idt + 13 * 16 + 5], 0x7f    ; #GP not present: #NP while delivering #GP
  TRY
  mov rax, 0x9000000000000000
  mov al, [rax]
  ENDTRY
  FAULT "contributory in contributory: double fault", 8, 0
  or byte [idt + 13 * 16 + 5], 0x80
  and byte [idt + 6 * 16 + 5], 0x7f     ; #UD not present: benign, then #NP: handled in turn
  TRY
  ud2
  ENDTRY
  FAULT "contributory in benign: handled in turn", 11, 6 * 8 + 3
  or byte [idt + 6 * 16 + 5], 0x80
  and byte [idt + 14 * 16 + 5], 0x7f
  TRY
  mov rbx, 0x8000000000
  mov al, [rbx]
  ENDTRY
  FAULT "contributory in page fault: double fault", 8, 0
  or byte [idt + 14 * 16 + 5], 0x80
  TRY
  mov rsp, 0x8000000100         ; #UD cannot push: page fault in benign is handled in turn, and cannot push either
  ud2
  ENDTRY
  FAULT "page fault in page fault: double fault", 8, 0
  TRY
  mov rsp, 0x9000000000000000
  ud2
  ENDTRY
  FAULT "stack fault in stack fault: double fault", 8, 0
  mov byte [idt + 12 * 16 + 4], 1
  TRY
  mov rsp, 0x9000000000000000
  pop rax
  ENDTRY
  FAULT "#SS on an IST stack", 12, 0
  mov byte [idt + 12 * 16 + 4], 0
  and byte [idt + 0 * 16 + 5], 0x7f     ; #DE is contributory: #NP within it doubles
  TRY
  xor ecx, ecx
  div ecx
  ENDTRY
  FAULT "#NP in #DE: double fault", 8, 0
  or byte [idt + 0 * 16 + 5], 0x80
  ; --- priorities ---
  TRY
  USER
  mov ecx, 0x12345678           ; an MSR that is not there, in ring 3: #GP either way; with LOCK #UD is first
  db 0xf0
  rdmsr
  ENDTRY
  FAULT "#UD before #GP", 6, 0
  TRY
  xor eax, eax
  mov ds, eax
  mov rbx, 0x8000000000
  mov al, [rbx]
  ENDTRY
  FAULT "null DS does not matter in 64-bit mode", 14, 0
  TRY
  USER
  hlt
  ENDTRY
  FAULT "hlt in ring 3", 13, 0
  TRY
  USER
  in al, 0x80
  ENDTRY
  FAULT "in in ring 3", 13, 0
  TRY
  USER
  mov rax, cr3
  ENDTRY
  FAULT "mov from CR in ring 3", 13, 0
  TRY
  USER
  mov rax, dr0
  ENDTRY
  FAULT "mov from DR in ring 3", 13, 0
  TRY
  db 0x0f, 0x20, 0xc8           ; mov rax, cr1
  ENDTRY
  FAULT "mov from CR1", 6, 0
  ; --- alignment check ---
  mov rax, cr0
  bts rax, 18
  mov cr0, rax
  TRY
  USER 0x40002
  mov eax, [rsp - 7]
  int 0x80
  ENDTRY
  FAULT "#AC in ring 3", 17, 0
  TRY
  USER 0x40002
  mov eax, [rsp - 8]
  int 0x80
  ENDTRY
  FAULT "aligned access with AC", 0x80, 0
  TRY
  push qword 0x40002
  popfq
  mov eax, [rsp - 7]
  ENDTRY
  NOFAULT "no #AC in ring 0"
  mov rax, cr0
  btr rax, 18
  mov cr0, rax
  ; --- segment loads ---
  and byte [gdt + SEL_FREE + 5], 0
  TRY
  mov eax, SEL_FREE
  mov ds, eax
  ENDTRY
  FAULT "load of an empty descriptor", 13, SEL_FREE
  TRY
  mov eax, SEL_FREE
  ltr ax
  ENDTRY
  FAULT "ltr of an empty descriptor", 13, SEL_FREE
  TRY
  mov eax, SEL_TSS
  ltr ax
  ENDTRY
  FAULT "ltr of a busy TSS", 13, SEL_TSS
  TRY
  xor eax, eax
  ltr ax
  ENDTRY
  FAULT "ltr null", 13, 0
  and byte [gdt + SEL_TSS + 5], ~2 ; for the machine that took it
  mov eax, SEL_TSS
  ltr ax
  TRY
  xor eax, eax
  lldt ax
  ENDTRY
  NOFAULT "lldt null"
  TRY
  mov eax, SEL_DATA
  lldt ax
  ENDTRY
  FAULT "lldt of data", 13, SEL_DATA
  ; --- UMIP ---
  mov eax, 7
  xor ecx, ecx
  cpuid
  bt ecx, 2
  jnc .no_umip
  TRY
  USER
  smsw eax
  int 0x80
  ENDTRY
  FAULT "smsw in ring 3, no UMIP", 0x80, 0
  mov rax, cr4
  bts rax, 11
  mov cr4, rax
  TRY
  USER
  smsw eax
  ENDTRY
  FAULT "smsw in ring 3, UMIP", 13, 0
  TRY
  USER
  str eax
  ENDTRY
  FAULT "str in ring 3, UMIP", 13, 0
  TRY
  sgdt [scratch]
  ENDTRY
  NOFAULT "sgdt in ring 0, UMIP"
  mov rax, cr4
  btr rax, 11
  mov cr4, rax
.no_umip:
  ret
  align 8
short_idt: dw 0x88 * 16 - 1
  dq idt
