; husk: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, FSGSBASE, IRET forms (SDM vol. 2, vol. 3A 5.8.7-5.8.8)
%include "frame64.inc"

%define MSR_STAR 0xc0000081
%define MSR_LSTAR 0xc0000082
%define MSR_CSTAR 0xc0000083
%define MSR_SFMASK 0xc0000084
%define MSR_FS_BASE 0xc0000100
%define MSR_GS_BASE 0xc0000101
%define MSR_KERNEL_GS 0xc0000102

main:
  WRMSR MSR_STAR, 0x00280018, 0
  WRMSR MSR_LSTAR, 0, on_syscall
  WRMSR MSR_SFMASK, 0, 0x40600  ; AC, DF, IF... and what the user sets below
  ; --- SYSCALL, 64-bit ---
  TRY
  USER 0xcd7                    ; CF PF AF ZF SF DF OF
  syscall
.after_syscall:
  mov rax, cs
  mov rdx, ss
  int 0x80
  ENDTRY
  FAULT "syscall and sysret", 0x80, 0
  mov eax, .after_syscall + UALIAS
  CHECK "RCX is the return address", [seen_rcx], rax
  CHECK "R11 is RFLAGS", [seen_r11], 0xcd7
  CHECK "RFLAGS masked by SFMASK", [seen_flags], 0x8d7
  CHECK "CS of syscall", [seen_cs], 0x18
  CHECK "SS of syscall", [seen_ss], 0x20
  CHECK "sysret CS", [got_cs], 0x3b
  CHECK "sysret SS", [got_ss], 0x33
  mov rax, [got_flags]
  and eax, 0xcd7
  CHECK "sysret loads RFLAGS from R11", rax, 0xcd7
  TRY
  USER
  mov ecx, 1
  sysret
  ENDTRY
  FAULT "sysret in ring 3", 13, 0
  TRY
  mov rcx, 0x0000900000000000
  mov r11d, 2
  o64 sysret
  ENDTRY
  FAULT "sysret to a non-canonical RCX", 13, 0
  ; Intel checks RCX in ring 0; AMD faults on the fetch, in ring 3 (APM 3 SYSRET).
  xor eax, eax
  cpuid
  mov eax, 0x18
  mov edx, 0x3b
  cmp ecx, 0x444d4163           ; "cAMD"
  cmove eax, edx
  CHECK "CS of the fault of sysret, as the vendor has it", [got_cs], rax
  ; --- to compatibility mode and back ---
  mov qword [sys_rsp], stack_top - 0x1000
  WRMSR MSR_CSTAR, 0, on_cstar
  TRY
  mov ecx, compat_code + UALIAS
  mov r11d, 2
  sysret
  ENDTRY
  FAULT "sysret to compatibility mode", 0x80, 0
  CHECK "CS of compatibility mode", [got_cs], 0x2b
  CHECK "compatibility mode code ran with 32-bit registers", [got_rax], 0x1234
  WRMSR 0xc0000080, 0, 0xd00    ; SCE off
  TRY
  USER
  syscall
  ENDTRY
  FAULT "syscall with EFER.SCE off", 6, 0
  TRY
  o64 sysret
  ENDTRY
  FAULT "sysret with EFER.SCE off", 6, 0
  WRMSR 0xc0000080, 0, 0xd01

  ; --- SYSENTER ---
  mov eax, 0
  cpuid
  cmp ecx, 0x444d4163           ; "cAMD": no SYSENTER in long mode
  je .no_sysenter
  WRMSR 0x174, 0, 0
  TRY
  USER
  sysenter
  ENDTRY
  FAULT "sysenter with SYSENTER_CS 0", 13, 0
  TRY
  o64 sysexit
  ENDTRY
  FAULT "sysexit with SYSENTER_CS 0", 13, 0
  WRMSR 0x174, 0, 0x18
  WRMSR 0x175, 0, kstack_top - 0x100
  WRMSR 0x176, 0, on_sysenter
  TRY
  USER 0x202
  sysenter
.after_sysenter:
  mov rax, cs
  int 0x80
  ENDTRY
  FAULT "sysenter and sysexit", 0x80, 0
  CHECK "sysenter CS", [seen_cs], 0x18
  CHECK "sysenter SS", [seen_ss], 0x20
  CHECK "sysenter RSP", [seen_rsp], kstack_top - 0x100
  CHECK "sysenter clears IF", [seen_flags], 2
  CHECK "sysexit CS", [got_cs], 0x3b
  CHECK "sysexit SS", [got_ss], 0x43
  TRY
  mov edx, compat_code + UALIAS
  mov ecx, ustack_top + UALIAS
  sysexit
  ENDTRY
  FAULT "sysexit to compatibility mode", 0x80, 0
  CHECK "sysexit 32 CS", [got_cs], 0x2b
  CHECK "sysexit 32 SS", [got_ss], 0x33
  TRY
  USER
  sysexit
  ENDTRY
  FAULT "sysexit in ring 3", 13, 0
  TRY
  mov rdx, 0x0000900000000000
  mov ecx, 0
  o64 sysexit
  ENDTRY
  FAULT "sysexit to a non-canonical RDX", 13, 0
.no_sysenter:

  ; --- SWAPGS, FS and GS base ---
  WRMSR MSR_GS_BASE, 0x1111, 0x2222
  WRMSR MSR_KERNEL_GS, 0x3333, 0x4444
  swapgs
  RDMSR MSR_GS_BASE
  mov rdx, 0x333300004444
  CHECK "swapgs loads GS base", rax, rdx
  RDMSR MSR_KERNEL_GS
  mov rdx, 0x111100002222
  CHECK "swapgs saves GS base", rax, rdx
  TRY
  USER
  swapgs
  ENDTRY
  FAULT "swapgs in ring 3", 13, 0
  TRY
  WRMSR MSR_GS_BASE, 0x90000000, 0
  ENDTRY
  FAULT "non-canonical GS base", 13, 0
  TRY
  WRMSR MSR_LSTAR, 0x90000000, 0
  ENDTRY
  FAULT "non-canonical LSTAR", 13, 0
  TRY
  rdfsbase rax
  ENDTRY
  FAULT "rdfsbase without CR4.FSGSBASE", 6, 0
  mov rax, cr4
  bts rax, 16
  mov cr4, rax
  mov rax, 0x7fff12345678
  wrfsbase rax
  RDMSR MSR_FS_BASE
  mov rdx, 0x7fff12345678
  CHECK "wrfsbase", rax, rdx
  TRY
  USER
  rdfsbase rax
  int 0x80
  ENDTRY
  CHECK "rdfsbase in ring 3", [got_rax], rdx
  wrfsbase eax
  TRY
  mov rax, 0x9000000000000000
  wrgsbase rax
  ENDTRY
  FAULT "wrgsbase non-canonical", 13, 0
  mov eax, SEL_DATA
  mov fs, eax
  RDMSR MSR_FS_BASE
  CHECK "loading FS clears the base", rax, 0
  mov rax, scratch
  wrfsbase rax
  mov rdx, 0x0123456789abcdef
  mov [scratch + 8], rdx
  mov rax, [fs:abs 8]
  CHECK "FS base adds in 64-bit mode", rax, rdx
  mov eax, SEL_DATA
  mov fs, eax

  ; --- IRET ---
  TRY                           ; SS null is allowed in 64-bit ring 0
  mov rax, rsp
  push qword 0
  push rax
  push qword 2
  push qword SEL_CODE64
  push qword .null_ss
  iretq
.null_ss:
  mov rcx, ss
  ENDTRY
  NOFAULT "iretq to ring 0 with a null SS"
  CHECK "SS is null", rcx, 0
  mov eax, SEL_DATA
  mov ss, eax
  TRY
  mov rax, rsp
  push qword 3
  push rax
  push qword 2
  push qword SEL_UCODE64
  push qword .null_ss
  iretq
  ENDTRY
  FAULT "iretq to ring 3 with a null SS", 13, 0
  TRY
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 2
  push qword SEL_UCODE64
  push qword .null_ss
  iretq
  ENDTRY
  FAULT "iretq to ring 3 with SS of ring 0", 13, SEL_DATA
  TRY
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 2
  push qword SEL_DATA
  push qword .null_ss
  iretq
  ENDTRY
  FAULT "iretq to data", 13, SEL_DATA
  TRY
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 0x4002
  popfq
  iretq
  ENDTRY
  FAULT "iretq with NT", 13, 0
  TRY
  USER 0x3202 - 0x200
  pushfq
  pop rax
  int 0x80
  ENDTRY
  mov rax, [got_rax]
  and eax, 0x3000
  CHECK "iretq from ring 0 sets IOPL", rax, 0x3000
  TRY                           ; 16-bit operand: the frame is of words
  USER
  sub rsp, 6
  mov word [rsp], 0
  mov word [rsp + 2], SEL_UCODE64
  mov word [rsp + 4], 2
  o16 iret
  ENDTRY
  FAULT "16-bit iret in 64-bit mode pops SS:SP too", 13, ANY
  ; --- the frame of an interrupt in 64-bit mode is aligned ---
  TRY
  sub rsp, 3
  int 0x81
  ENDTRY
  mov rax, [got_frame]
  and eax, 15
  CHECK "frame aligned to 16", rax, 8
  mov rax, [exp_rsp]
  sub rax, 3
  CHECK "frame keeps the unaligned RSP", [got_rsp], rax
  ; --- far transfers ---
  TRY
  push qword SEL_CODE64
  push qword .far
  o64 retf
.far:
  ENDTRY
  NOFAULT "retfq"
  TRY
  db 0xea
  dd 0
  dw 8
  ENDTRY
  FAULT "jmp ptr16:32 in 64-bit mode", 6, 0
  TRY
  push qword SEL_CODE32
  push qword compat_ring0
  o64 retf
  ENDTRY
  FAULT "ring 0 compatibility mode", 0x82, 0
  CHECK "CS of it", [got_cs], SEL_CODE32
  ret

on_syscall:
  mov [abs seen_rcx], rcx
  mov [abs seen_r11], r11
  mov rax, cs
  mov [abs seen_cs], rax
  mov rax, ss
  mov [abs seen_ss], rax
  mov rdx, rsp
  mov rsp, kstack_top - 0x200
  pushfq
  pop qword [abs seen_flags]
  mov rsp, rdx
  o64 sysret
on_cstar:
  int 0x84
on_sysenter:
  mov [abs seen_rsp], rsp
  pushfq
  pop qword [abs seen_flags]
  and qword [abs seen_flags], 0x202
  mov rax, cs
  mov [abs seen_cs], rax
  mov rax, ss
  mov [abs seen_ss], rax
  mov rdx, main.after_sysenter + UALIAS
  mov ecx, ustack_top + UALIAS
  o64 sysexit
  bits 32
compat_code:
  mov eax, 0x1234
  int 0x80
compat_ring0:
  int 0x82
  bits 64
  align 8
seen_rcx: dq 0
seen_r11: dq 0
seen_cs: dq 0
seen_ss: dq 0
seen_rsp: dq 0
seen_flags: dq 0
sys_rsp: dq 0
