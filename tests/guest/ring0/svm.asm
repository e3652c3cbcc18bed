; husk: AMD SVM: VMRUN and #VMEXIT, intercepts, events, nested paging (APM vol. 2, chapter 15)
%include "frame64.inc"

%define vmcb (scratch + 0x1000)
%define hsave (scratch + 0x2000)
%define iopm (scratch + 0x3000)         ; three pages
%define msrpm (scratch + 0x6000)        ; two
%define npml4 (scratch + 0x8000)        ; the nested tables
%define npdpt (scratch + 0x9000)
%define npd (scratch + 0xa000)
%define npt (scratch + 0xb000)          ; of the first 2 MiB
%define page (scratch + 0xc000)         ; memory of the test
%define page2 (scratch + 0xd000)
%define vmcb2 (scratch + 0xe000)
%define gstack_top (scratch + 0x10000)

%define ENTRY(x) (npt + (((x) - image_start + 0x100000) >> 12) * 8)    ; what maps a page
%define I_MISC1 0x0c                    ; intercept vectors
%define I_MISC2 0x10
%define ASID 0x58
%define TLB_CONTROL 0x5c
%define V_CONTROL 0x60
%define V_VECTOR 0x64
%define SHADOW 0x68
%define EXITCODE 0x70
%define EXITINFO1 0x78
%define EXITINFO2 0x80
%define EXITINTINFO 0x88
%define NP 0x90
%define EVENTINJ 0xa8
%define NCR3 0xb0
%define NRIP 0xc8
%define S_CS 0x410
%define S_CPL 0x4cb
%define S_EFER 0x4d0
%define S_CR4 0x548
%define S_CR3 0x550
%define S_CR0 0x558
%define S_DR7 0x560
%define S_DR6 0x568
%define S_RFLAGS 0x570
%define S_RIP 0x578
%define S_RSP 0x5d8
%define S_RAX 0x5f8
%define S_CR2 0x640
%define S_PAT 0x668
%define VM(x) [vmcb + (x)]

; GUEST ... ENDGUEST: what is inside runs by VMRUN as it is here, until it is intercepted; VMMCALL at its end is
%macro GUEST 0
  %push guest
  mov rax, %$code
  call run
  jmp %$after
%$code:
%endmacro
%macro ENDGUEST 0
  vmmcall
%$after:
  %pop
%endmacro
%macro EXIT 2                   ; name, want exit code
  CHECK %1, VM(EXITCODE), %2
%endmacro
; INTERCEPTED "name", exit code, instruction
%macro INTERCEPTED 3+
  call vmcb_reset
  bts dword VM((%2) / 32 * 4), (%2) % 32
  mov qword [exp_rsp], gstack_top       ; where an exception of the guest ends
  mov qword [exp_rip], %%next
  GUEST
%%at:
  %3
%%next:
  ENDGUEST
  mov qword [exp_rip], 0
  EXIT %1, %2
  mov rax, %%at
  %strcat %%rip %1, ": RIP"
  CHECK %%rip, VM(S_RIP), rax
  mov rax, %%next
  call next_rip
  %strcat %%nrip %1, ": nRIP"
  CHECK %%nrip, VM(NRIP), rax
%endmacro
; INVALID "name": the VMCB as it is now is none for VMRUN
%macro INVALID 1
  GUEST
  nop
  ENDGUEST
  movsxd rax, dword VM(EXITCODE)
  CHECK %1, rax, -1
  call vmcb_reset
%endmacro

vmcb_reset:
  push rax
  push rcx
  push rdx
  push rdi
  mov edi, vmcb
  mov ecx, 0x1000 / 8
  xor eax, eax
  rep stosq
  mov edi, iopm
  mov ecx, 0x5000 / 8
  rep stosq
  mov dword VM(I_MISC2), 3              ; VMRUN, VMMCALL
  mov qword VM(0x40), iopm
  mov qword VM(0x48), msrpm
  mov dword VM(ASID), 1
  mov byte VM(TLB_CONTROL), 1
%assign i 0
%rep 4
  mov word VM(0x400 + i * 16), SEL_DATA
  mov word VM(0x402 + i * 16), 0xc93
  mov dword VM(0x404 + i * 16), 0xffffffff
  %assign i i + 1
%endrep
  mov word VM(S_CS), SEL_CODE64
  mov word VM(S_CS + 2), 0xa9b
  sub rsp, 16
  sgdt [rsp]
  movzx eax, word [rsp]
  mov VM(0x464), eax
  mov rax, [rsp + 2]
  mov VM(0x468), rax
  sidt [rsp]
  movzx eax, word [rsp]
  mov VM(0x484), eax
  mov rax, [rsp + 2]
  mov VM(0x488), rax
  add rsp, 16
  RDMSR 0xc0000080
  mov VM(S_EFER), rax
  mov rax, cr4
  mov VM(S_CR4), rax
  mov rax, cr3
  mov VM(S_CR3), rax
  mov rax, cr0
  mov VM(S_CR0), rax
  mov eax, 0x400
  mov VM(S_DR7), rax
  mov eax, 0xffff0ff0
  mov VM(S_DR6), rax
  mov qword VM(S_RFLAGS), 2
  mov rax, 0x0007040600070406
  mov VM(S_PAT), rax
  mov qword VM(NRIP), 0
  pop rdi
  pop rdx
  pop rcx
  pop rax
  ret
run:                            ; RAX: where
  mov VM(S_RIP), rax
  mov qword VM(S_RSP), gstack_top
  mov rax, vmcb
  vmrun
  stgi
  mov rax, vmcb
  ret
; what nRIP is to be: RAX, or 0 where the processor does not save it
next_rip:
  cmp byte [has_nrip], 0
  jne .end
  xor eax, eax
.end:
  ret
; nested tables: everything identity-mapped, the first 2 MiB by 4 KiB pages
nested_reset:
  push rax
  push rcx
  push rdi
  mov edi, npml4
  mov ecx, 0x4000 / 8
  xor eax, eax
  rep stosq
  mov dword [npml4], npdpt + 7
  mov dword [npdpt], npd + 7
  mov edi, npd
  mov eax, 0x87
  mov ecx, 512
.large:
  mov [rdi], eax
  add edi, 8
  add eax, 0x200000
  loop .large
  mov dword [npd], npt + 7
  mov edi, npt
  mov eax, 7
  mov ecx, 512
.small:
  mov [rdi], rax
  add edi, 8
  add eax, 0x1000
  loop .small
  mov qword VM(NP), 1
  mov qword VM(NCR3), npml4
  pop rdi
  pop rcx
  pop rax
  ret

main:
  mov eax, 0x80000001
  cpuid
  bt ecx, 2
  jc .have
  mov rsi, text_none
  call puts
  ret
.have:
  mov eax, 0x8000000a
  cpuid
  CHECK "SVM revision", rax, 1
  test edx, 8
  setnz [has_nrip]
  mov [svm_features], edx
  ; --- before EFER.SVME, and what VMRUN asks of the host (15.5) ---
  TRY
  mov eax, vmcb
  vmrun
  ENDTRY
  FAULT "vmrun without EFER.SVME", 6, 0
  TRY
  stgi
  ENDTRY
  FAULT "stgi without EFER.SVME", 6, 0
  TRY
  vmload
  ENDTRY
  FAULT "vmload without EFER.SVME", 6, 0
  RDMSR 0xc0000080
  or eax, 0x1000
  xor edx, edx
  mov ecx, 0xc0000080
  TRY
  wrmsr
  ENDTRY
  NOFAULT "EFER.SVME"
  TRY
  WRMSR 0xc0010117, 0, hsave
  ENDTRY
  NOFAULT "VM_HSAVE_PA"
  RDMSR 0xc0010117
  CHECK "VM_HSAVE_PA reads back", rax, hsave
  TRY
  WRMSR 0xc0010117, 0, hsave + 8
  ENDTRY
  FAULT "VM_HSAVE_PA within a page", 13, 0
  TRY
  vmmcall
  ENDTRY
  FAULT "vmmcall that nothing intercepts", 6, 0
  TRY
  mov eax, vmcb + 8
  vmrun
  ENDTRY
  FAULT "vmrun of an address within a page", 13, 0
  TRY
  mov rax, 1 << 60
  vmload
  ENDTRY
  FAULT "vmload beyond physical addresses", 13, 0
  TRY
  USER
  mov eax, vmcb
  vmrun
  ENDTRY
  FAULT "vmrun in ring 3", 13, 0

  ; --- consistency checks (15.5.1) ---
  call vmcb_reset
  mov dword VM(ASID), 0
  INVALID "ASID 0"
  mov dword VM(I_MISC2), 2
  INVALID "VMRUN not intercepted"
  btr qword VM(S_EFER), 12
  INVALID "EFER.SVME clear"
  bts qword VM(S_EFER), 13
  bts qword VM(S_EFER), 60
  INVALID "EFER reserved bits"
  bts qword VM(S_CR0), 29
  INVALID "CR0.NW without CD"
  bts qword VM(S_CR0), 32
  INVALID "CR0 high half"
  bts qword VM(S_CR4), 31
  INVALID "CR4 reserved bit"
  bts qword VM(S_DR6), 32
  INVALID "DR6 high half"
  bts qword VM(S_DR7), 32
  INVALID "DR7 high half"
  btr qword VM(S_CR4), 5
  INVALID "long mode without PAE"
  btr qword VM(S_CR0), 0
  INVALID "long mode without protection"
  or word VM(S_CS + 2), 0x400
  INVALID "CS.L and CS.D"
  bts qword VM(S_CR3), 60
  INVALID "CR3 reserved bit"
  mov eax, 0x80000100
  mov VM(EVENTINJ), rax
  INVALID "event of a reserved type"
  mov eax, 0x80000302
  mov VM(EVENTINJ), rax
  INVALID "exception 2"
  mov eax, 0x80000321
  mov VM(EVENTINJ), rax
  INVALID "exception 33"
  mov rax, 0xffffffffff000
  mov VM(0x48), rax
  INVALID "MSR map beyond physical addresses"

  ; --- in and out ---
  call vmcb_reset
  mov qword VM(S_RAX), 0x1234
  mov ebx, 5
  mov [host_rsp], rsp
  mov rax, cr3
  mov [host_cr3], rax
  GUEST
  mov rcx, rax
  mov [guest_rsp], rsp
  add ebx, 2
  mov eax, 0x77
  stc
.at:
  ENDGUEST
  EXIT "vmmcall", 0x81
  CHECK "RAX of the guest", rcx, 0x1234
  CHECK "RBX is shared", rbx, 7
  CHECK "RSP of the guest", [guest_rsp], gstack_top
  CHECK "RSP of the host", [host_rsp], rsp
  CHECK "RAX is saved", VM(S_RAX), 0x77
  CHECK "RSP is saved", VM(S_RSP), gstack_top
  CHECK "RFLAGS is saved", VM(S_RFLAGS), 3
  mov rax, .at
  CHECK "RIP is saved", VM(S_RIP), rax
  CHECK "CPL is saved", VM(S_CPL & ~7), 0
  mov rax, dr7
  CHECK "DR7 of the host", rax, 0x400
  CHECK "EXITINTINFO is clear", VM(EXITINTINFO), 0
  call vmcb_reset
  mov qword VM(S_CR2), 0x5555
  GUEST
  mov rbx, cr2
  mov eax, 0x6666
  mov cr2, rax
  ENDGUEST
  CHECK "CR2 of the guest", rbx, 0x5555
  CHECK "CR2 is saved", VM(S_CR2), 0x6666

  ; --- intercepted instructions (15.9) ---
  INTERCEPTED "mov from CR0", 0x00, {mov rbx, cr0}
  INTERCEPTED "mov from CR3", 0x03, {mov rbx, cr3}
  INTERCEPTED "mov from CR4", 0x04, {mov rbx, cr4}
  INTERCEPTED "mov from CR8", 0x08, {mov rbx, cr8}
  INTERCEPTED "smsw", 0x00, {smsw ebx}
  mov rbx, cr0
  INTERCEPTED "mov to CR0", 0x10, {mov cr0, rbx}
  INTERCEPTED "clts", 0x10, {clts}
  INTERCEPTED "lmsw", 0x10, {lmsw bx}
  mov rbx, cr3
  INTERCEPTED "mov to CR3", 0x13, {mov cr3, rbx}
  mov rbx, cr4
  INTERCEPTED "mov to CR4", 0x14, {mov cr4, rbx}
  xor ebx, ebx
  INTERCEPTED "mov to CR8", 0x18, {mov cr8, rbx}
  INTERCEPTED "mov from DR0", 0x20, {mov rbx, dr0}
  INTERCEPTED "mov from DR7", 0x27, {mov rbx, dr7}
  INTERCEPTED "mov to DR3", 0x33, {mov dr3, rbx}
  INTERCEPTED "sidt", 0x66, {sidt [page]}
  INTERCEPTED "sgdt", 0x67, {sgdt [page]}
  INTERCEPTED "sldt", 0x68, {sldt ebx}
  INTERCEPTED "str", 0x69, {str ebx}
  INTERCEPTED "lidt", 0x6a, {lidt [page]}
  INTERCEPTED "lgdt", 0x6b, {lgdt [page]}
  INTERCEPTED "lldt", 0x6c, {lldt bx}
  INTERCEPTED "ltr", 0x6d, {ltr bx}
  INTERCEPTED "rdtsc", 0x6e, {rdtsc}
  INTERCEPTED "rdpmc", 0x6f, {rdpmc}
  INTERCEPTED "pushf", 0x70, {pushfq}
  INTERCEPTED "popf", 0x71, {popfq}
  INTERCEPTED "cpuid", 0x72, {cpuid}
  INTERCEPTED "rsm", 0x73, {rsm}
  INTERCEPTED "iret", 0x74, {iretq}
  INTERCEPTED "int n", 0x75, {int 0x85}
  INTERCEPTED "invd", 0x76, {invd}
  INTERCEPTED "pause", 0x77, {pause}
  INTERCEPTED "hlt", 0x78, {hlt}
  INTERCEPTED "invlpg", 0x79, {invlpg [page]}
  INTERCEPTED "invlpga", 0x7a, {invlpga}
  INTERCEPTED "vmrun", 0x80, {vmrun}
  INTERCEPTED "vmmcall again", 0x81, {vmmcall}
  INTERCEPTED "vmload", 0x82, {vmload}
  INTERCEPTED "vmsave", 0x83, {vmsave}
  INTERCEPTED "stgi", 0x84, {stgi}
  INTERCEPTED "clgi", 0x85, {clgi}
  INTERCEPTED "rdtscp", 0x87, {rdtscp}
  INTERCEPTED "int1", 0x88, {db 0xf1}
  INTERCEPTED "wbinvd", 0x89, {wbinvd}
  INTERCEPTED "xsetbv", 0x8d, {xsetbv}
  call vmcb_reset
  GUEST
  rdtsc
  cpuid
  mov rbx, cr0
  mov cr0, rbx
  pushfq
  popfq
  pause
  mov ebx, 0x99
  ENDGUEST
  EXIT "nothing else is intercepted", 0x81
  CHECK "it all ran", rbx, 0x99

  ; --- what comes first ---
  call vmcb_reset
  mov dword VM(I_MISC1), 1 << 14        ; RDTSC
  mov dword VM(8), 1 << 13              ; #GP
  bts qword VM(S_CR4), 2                ; TSD
  mov byte VM(S_CPL), 3
  mov word VM(S_CS), SEL_UCODE64
  mov word VM(S_CS + 2), 0xafb
  mov word VM(0x420), SEL_UDATA_B
  mov word VM(0x422), 0xcf3
  mov rax, .user_rdtsc + UALIAS
  call run
  jmp .first_done
.user_rdtsc:
  rdtsc
.first_done:
  EXIT "#GP of rdtsc in ring 3 comes before its intercept", 0x4d
  CHECK "its error code", VM(EXITINFO1), 0
  CHECK "CPL 3 is saved", VM(S_CPL & ~7), 0x03000000
  call vmcb_reset
  mov dword VM(I_MISC1), 1 << 24        ; HLT
  mov dword VM(8), 1 << 13
  mov byte VM(S_CPL), 3
  mov word VM(S_CS), SEL_UCODE64
  mov word VM(S_CS + 2), 0xafb
  mov word VM(0x420), SEL_UDATA_B
  mov word VM(0x422), 0xcf3
  mov rax, .user_hlt + UALIAS
  call run
  jmp .second_done
.user_hlt:
  hlt
.second_done:
  EXIT "#GP of hlt in ring 3 comes before its intercept", 0x4d
  call vmcb_reset
  mov word VM(2), 1                     ; CR0 writes
  mov dword VM(8), 1 << 13
  GUEST
  mov ebx, 1 << 31
  mov cr0, rbx
  ENDGUEST
  EXIT "#GP of CR0 comes before its intercept", 0x4d

  ; --- selective writes of CR0 (15.9.1) ---
  call vmcb_reset
  bts dword VM(I_MISC1), 5
  GUEST
  mov rbx, cr0
  bts rbx, 3
  mov cr0, rbx
  btr rbx, 3
  mov cr0, rbx
  clts
  ENDGUEST
  EXIT "CR0.TS is not selected", 0x81
  call vmcb_reset
  bts dword VM(I_MISC1), 5
  GUEST
  mov rbx, cr0
  btc rbx, 18
  mov cr0, rbx
  ENDGUEST
  EXIT "CR0.AM is", 0x65

  ; --- ports (15.10) ---
  call vmcb_reset
  bts dword VM(I_MISC1), 27
  GUEST
  in al, 0x61
  ENDGUEST
  EXIT "in of a port that is free", 0x81
  bts dword [iopm + 0x61 / 8], 1
  GUEST
.in61:
  in al, 0x61
.after61:
  ENDGUEST
  EXIT "in of a port that is not", 0x7b
  CHECK "in: EXITINFO1", VM(EXITINFO1), 0x610211
  mov rax, .after61
  CHECK "in: EXITINFO2", VM(EXITINFO2), rax
  call .port_reset
  bts dword [iopm + 0x63 / 8], 3
  GUEST
  mov edx, 0x60
  out dx, eax
  ENDGUEST
  EXIT "out of four ports, the last not free", 0x7b
  CHECK "out: EXITINFO1", VM(EXITINFO1), 0x600240
  call .port_reset
  bts dword [iopm + 0x61 / 8], 1
  mov word VM(0x402), 0xc93
  GUEST
  mov edx, 0x61
  mov esi, page
  mov ecx, 3
  rep outsb
  ENDGUEST
  EXIT "rep outs", 0x7b
  CHECK "rep outs: EXITINFO1", VM(EXITINFO1), 0x610e1c
  call .port_reset
  bts dword [iopm + 0x2000], 0
  GUEST
  mov edx, 0xffff
  in ax, dx
  ENDGUEST
  EXIT "a port past the last has its bit", 0x7b
  jmp .ports_done
.port_reset:
  call vmcb_reset
  bts dword VM(I_MISC1), 27
  ret
.ports_done:

  ; --- MSRs (15.11) ---
  call vmcb_reset
  bts dword VM(I_MISC1), 28
  GUEST
  RDMSR 0xc0000080
  ENDGUEST
  EXIT "rdmsr that is free", 0x81
  bts dword [msrpm + 0x820], 0          ; 0C0000080h: byte 800h + 80h / 4
  GUEST
  RDMSR 0xc0000080
  ENDGUEST
  EXIT "rdmsr", 0x7c
  CHECK "rdmsr: EXITINFO1", VM(EXITINFO1), 0
  bts dword [msrpm + 0x1c], 7           ; 73h: byte 1Ch, bits 7:6
  GUEST
  mov ecx, 0x73
  wrmsr
  ENDGUEST
  EXIT "wrmsr", 0x7c
  CHECK "wrmsr: EXITINFO1", VM(EXITINFO1), 1
  GUEST
  mov ecx, 0x40000000
  rdmsr
  ENDGUEST
  EXIT "an MSR without a place in the map", 0x7c

  ; --- exceptions (15.12) ---
  call vmcb_reset
  bts dword VM(8), 6
  mov rbx, [got_count]
  GUEST
  ud2
  ENDGUEST
  EXIT "#UD", 0x46
  CHECK "it was not delivered", [got_count], rbx
  call vmcb_reset
  bts dword VM(8), 14
  GUEST
  mov eax, 0x1234
  mov cr2, rax
  mov rbx, 0x8000000000
  mov [rbx + 8], al
  ENDGUEST
  EXIT "#PF", 0x4e
  CHECK "#PF: EXITINFO1", VM(EXITINFO1), 2
  mov rax, 0x8000000008
  CHECK "#PF: EXITINFO2", VM(EXITINFO2), rax
  CHECK "#PF: CR2 is as it was", VM(S_CR2), 0x1234
  call vmcb_reset
  bts dword VM(8), 13
  GUEST
  mov eax, 0x1f8
  mov ds, ax
  ENDGUEST
  EXIT "#GP", 0x4d
  CHECK "#GP: EXITINFO1", VM(EXITINFO1), 0x1f8
  call vmcb_reset
  bts dword VM(8), 3
  GUEST
  TRY
.bp:
  int3
  ENDTRY
  ENDGUEST
  mov qword [exp_rip], 0
  EXIT "#BP", 0x43
  mov rax, .bp
  CHECK "#BP: RIP", VM(S_RIP), rax
  call vmcb_reset
  bts dword VM(8), 1
  GUEST
  push qword 0x102
  popfq
  nop
.stepped:
  nop
  ENDGUEST
  EXIT "#DB", 0x41
  mov rax, .stepped
  CHECK "#DB: RIP", VM(S_RIP), rax
  mov rax, VM(S_DR6)
  and eax, 0xe00f
  CHECK "#DB: DR6", rax, 0x4000
  call vmcb_reset
  GUEST
  TRY
  ud2
  ENDTRY
  ENDGUEST
  EXIT "#UD that is not intercepted", 0x81
  FAULT "it goes through the guest's IDT", 6, 0
  ; the second exception counts before a double fault
  call vmcb_reset
  bts dword VM(8), 13
  mov dword VM(0x484), 0x60             ; IDT ends with vector 5
  GUEST
.short:
  ud2
  ENDGUEST
  EXIT "#GP of the delivery of #UD", 0x4d
  mov eax, 0x80000306
  CHECK "EXITINTINFO", VM(EXITINTINFO), rax
  call vmcb_reset
  bts dword VM(8), 13
  mov dword VM(0x484), 0x60
  GUEST
  int 0x90
  ENDGUEST
  EXIT "#GP of the delivery of int n", 0x4d
  mov eax, 0x80000490
  CHECK "EXITINTINFO of int n", VM(EXITINTINFO), rax
  call vmcb_reset
  bts dword VM(8), 8
  mov dword VM(0x484), 0x60
  GUEST
  mov eax, 0x1f8
  mov ds, ax
  ENDGUEST
  EXIT "#DF", 0x48
  call vmcb_reset
  bts dword VM(I_MISC1), 31
  mov dword VM(0x484), 0
  GUEST
  ud2
  ENDGUEST
  EXIT "shutdown", 0x7f

  ; --- injection (15.20) ---
  jmp .inj1
.injected:
  ud2
.inj_resume:
  vmmcall
.inj1:
  call .arm
  mov eax, 0x80000081
  mov VM(EVENTINJ), rax
  mov rax, .injected
  call run
  EXIT "injected interrupt", 0x81
  FAULT "its vector", 0x81, 0
  mov rax, .injected
  CHECK "its frame", [got_rip], rax
  CHECK "EVENTINJ is cleared", VM(EVENTINJ), 0
  call .arm
  mov rax, (0x5678 << 32) | 0x80000b0d
  mov VM(EVENTINJ), rax
  mov rax, .injected
  call run
  FAULT "injected #GP with an error code", 13, 0x5678
  mov rax, .injected
  CHECK "its RIP", [got_rip], rax
  call .arm
  mov eax, 0x80000202
  mov VM(EVENTINJ), rax
  mov rax, .injected
  call run
  FAULT "injected NMI", 2, 0
  call .iret_once
  call .arm
  mov eax, 0x80000485
  mov VM(EVENTINJ), rax
  mov rax, .injected
  cmp byte [has_nrip], 0
  je .no_next
  lea rbx, [rax + 2]
  mov VM(NRIP), rbx
.no_next:
  call run
  FAULT "injected software interrupt", 0x85, 0
  mov rax, .injected
  cmp byte [has_nrip], 0
  je .no_next2
  add rax, 2
.no_next2:
  CHECK "its next RIP", [got_rip], rax
  call .arm
  bts dword VM(8), 13                   ; #GP is intercepted, but not the injected one
  mov eax, 0x8000030d
  mov VM(EVENTINJ), rax
  mov rax, .injected
  call run
  EXIT "an injected exception is not intercepted", 0x81
  call .arm
  bts dword VM(8), 13
  mov dword VM(0x484), 0x60
  mov eax, 0x80000081
  mov VM(EVENTINJ), rax
  mov rax, .injected
  call run
  EXIT "what its delivery meets is", 0x4d
  mov eax, 0x80000081
  CHECK "EXITINTINFO of an injected interrupt", VM(EXITINTINFO), rax
  mov qword [exp_rip], 0
  jmp .injection_done
.arm:
  call vmcb_reset
  mov qword [exp_rsp], gstack_top
  mov rax, .inj_resume
  mov [exp_rip], rax
  mov qword [got_vec], NONE
  ret
.iret_once:                     ; NMIs may come again
  mov rax, rsp
  push qword SEL_DATA
  push rax
  push qword 2
  push qword SEL_CODE64
  push qword .iret_done
  iretq
.iret_done:
  ret
.injection_done:

  ; --- virtual interrupts (15.21) ---
  call .arm
  mov dword VM(V_CONTROL), 0x01050100   ; V_INTR_MASKING, priority 5, V_IRQ
  mov dword VM(V_VECTOR), 0x93
  bts qword VM(S_RFLAGS), 9
  mov rax, .injected
  call run
  FAULT "virtual interrupt", 0x93, 0
  mov rax, VM(V_CONTROL)
  and eax, 0x100
  CHECK "V_IRQ is cleared", rax, 0
  call .arm
  mov dword VM(V_CONTROL), 0x01050100
  mov dword VM(V_VECTOR), 0x93
  mov rax, .after_cli
  call run
  jmp .vi1
.after_cli:
  mov ebx, 4
  vmmcall
.vi1:
  EXIT "virtual interrupt with IF clear", 0x81
  mov rax, VM(V_CONTROL)
  and eax, 0x100
  CHECK "V_IRQ stays", rax, 0x100
  call .arm
  mov dword VM(V_CONTROL), 0x01050105   ; V_TPR 5 holds it back
  mov dword VM(V_VECTOR), 0x93
  bts qword VM(S_RFLAGS), 9
  mov rax, .lower_tpr
  call run
  jmp .vi2
.lower_tpr:
  nop
  mov rbx, cr8
  mov eax, 4
  mov cr8, rax
  nop
.not_lowered:
  vmmcall
.vi2:
  FAULT "virtual interrupt after CR8 allows it", 0x93, 0
  CHECK "CR8 is V_TPR", rbx, 5
  mov rax, VM(V_CONTROL)
  and eax, 0xf
  CHECK "V_TPR is saved", rax, 4
  call .arm
  mov dword VM(V_CONTROL), 0x01150105   ; V_IGN_TPR
  mov dword VM(V_VECTOR), 0x93
  bts qword VM(S_RFLAGS), 9
  mov rax, .injected
  call run
  FAULT "V_IGN_TPR", 0x93, 0
  call .arm
  bts dword VM(I_MISC1), 4
  mov dword VM(V_CONTROL), 0x01050100
  mov dword VM(V_VECTOR), 0x93
  mov rax, .window
  call run
  jmp .vi3
.window:
  nop
  sti
  nop
.window_at:
  nop
  vmmcall
.vi3:
  EXIT "interrupt window", 0x64
  mov rax, .window_at
  CHECK "it opens behind the shadow of STI", VM(S_RIP), rax
  CHECK "nothing was delivered", [got_vec], NONE
  call .arm
  bts dword VM(I_MISC1), 24
  mov rax, .shadow
  call run
  jmp .vi4
.shadow:
  sti
  hlt
.vi4:
  EXIT "hlt behind sti", 0x78
  CHECK "the shadow is saved", VM(SHADOW), 1
  mov qword [exp_rip], 0

  ; --- interrupts and GIF (15.13, 15.17) ---
  mov ebx, 0xfee00000
  mov dword [rbx + 0xf0], 0x1ff         ; APIC on
  call vmcb_reset
  mov dword VM(I_MISC1), 1
  mov dword VM(V_CONTROL), 0x01000000   ; the host's IF counts
  TRY
  clgi
  sti
  GUEST
  mov dword [rbx + 0x300], 0x40095      ; to itself
  mov ecx, 100000
.spin:
  loop .spin
  ENDGUEST
  ENDTRY
  cli
  FAULT "the interrupt comes with STGI", 0x95, 0
  mov dword [rbx + 0xb0], 0
  EXIT "INTR", 0x60
  call vmcb_reset
  GUEST
  TRY
  mov dword [rbx + 0x300], 0x40096
  sti
  mov ecx, 100000
.spin2:
  loop .spin2
  ENDTRY
  ENDGUEST
  FAULT "an interrupt that is not intercepted", 0x96, 0
  mov dword [rbx + 0xb0], 0
  mov qword [got_vec], NONE
  TRY
  clgi
  sti
  mov dword [rbx + 0x300], 0x40097
  mov ecx, 1000
.wait:
  loop .wait
  mov rsi, [got_vec]
  stgi
  nop
  ENDTRY
  cli
  CHECK "GIF holds an interrupt back", rsi, NONE
  FAULT "STGI lets it come", 0x97, 0
  mov dword [rbx + 0xb0], 0

  ; --- TSC offset ---
  call vmcb_reset
  mov rax, 1 << 50
  mov VM(0x50), rax
  GUEST
  rdtsc
  shl rdx, 32
  lea rbx, [rdx + rax]
  ENDGUEST
  rdtsc
  shl rdx, 32
  add rax, rdx
  mov rcx, 1 << 50
  sub rbx, rcx
  sub rax, rbx
  shr rax, 36
  CHECK "TSC offset", rax, 0

  ; --- VMLOAD and VMSAVE (15.5.2) ---
  mov rax, 0x0000123456789000
  mov [vmcb2 + 0x620], rax
  WRMSR 0xc0000102, 0x1122, 0x33445566
  WRMSR 0xc0000100, 0x77, 0x88990000
  mov rax, vmcb2
  vmsave
  mov rcx, [vmcb2 + 0x620]
  mov rax, 0x112233445566
  CHECK "vmsave: KernelGsBase", rcx, rax
  mov rax, 0x7788990000
  CHECK "vmsave: FS base", [vmcb2 + 0x448], rax
  movzx eax, word [vmcb2 + 0x490]
  CHECK "vmsave: TR", rax, SEL_TSS
  mov rax, 0x4455
  mov [vmcb2 + 0x620], rax
  mov rax, 0x0000800000000000
  mov [vmcb2 + 0x608], rax
  mov rax, 0x99000
  mov [vmcb2 + 0x448], rax
  mov rax, vmcb2
  vmload
  RDMSR 0xc0000102
  CHECK "vmload: KernelGsBase", rax, 0x4455
  RDMSR 0xc0000100
  CHECK "vmload: FS base", rax, 0x99000
  WRMSR 0xc0000082, 0, 0
  WRMSR 0xc0000102, 0, 0
  WRMSR 0xc0000100, 0, 0

  ; --- nested paging (15.25) ---
  test dword [svm_features], 1
  jz .no_npt
  call vmcb_reset
  call nested_reset
  mov qword [page], 0x11
  GUEST
  mov rbx, [page]
  ENDGUEST
  EXIT "nested paging", 0x81
  CHECK "memory through nested tables", rbx, 0x11
  mov eax, [ENTRY(page)]
  and eax, 0x20
  CHECK "A of a nested entry", rax, 0x20
  mov dword [ENTRY(page)], page2 + 7
  mov qword [page2], 0x22
  GUEST
  mov rbx, [page]
  mov [page + 8], rbx
  ENDGUEST
  CHECK "another page", rbx, 0x22
  CHECK "written there", [page2 + 8], 0x22
  mov eax, [ENTRY(page)]
  and eax, 0x60
  CHECK "A and D of a nested entry", rax, 0x60
  mov dword [ENTRY(page)], 0
  mov byte VM(TLB_CONTROL), 1
  GUEST
.np1:
  mov rbx, [page + 0x18]
  ENDGUEST
  EXIT "nested page not present", 0x400
  mov rax, 0x100000004
  CHECK "not present: EXITINFO1", VM(EXITINFO1), rax
  CHECK "not present: EXITINFO2", VM(EXITINFO2), page + 0x18
  mov rax, .np1
  CHECK "not present: RIP", VM(S_RIP), rax
  mov dword [ENTRY(page)], page + 5
  GUEST
  mov rbx, [page]
  mov [page + 0x20], rbx
  ENDGUEST
  EXIT "nested page read-only", 0x400
  mov rax, 0x100000007
  CHECK "read-only: EXITINFO1", VM(EXITINFO1), rax
  mov dword [ENTRY(page)], page + 3
  GUEST
  mov rbx, [page]
  ENDGUEST
  EXIT "nested page of the supervisor", 0x400
  mov rax, 0x100000005
  CHECK "supervisor: EXITINFO1", VM(EXITINFO1), rax
  mov eax, page + 7
  bts rax, 63
  mov [ENTRY(page)], rax
  mov byte [page], 0xc3
  GUEST
  mov rbx, [page]
  mov ebx, page
  call rbx
  ENDGUEST
  EXIT "nested page not executable", 0x400
  mov rax, 0x100000015
  CHECK "not executable: EXITINFO1", VM(EXITINFO1), rax
  CHECK "not executable: RIP", VM(S_RIP), page
  mov eax, page + 7
  bts rax, 51
  mov [ENTRY(page)], rax
  GUEST
  mov rbx, [page]
  ENDGUEST
  EXIT "nested entry with a reserved bit", 0x400
  mov rax, 0x10000000d
  CHECK "reserved: EXITINFO1", VM(EXITINFO1), rax
  ; the guest's own tables
  call nested_reset
  mov dword [ENTRY(pd_low)], 0
  GUEST
.walk:
  nop
  ENDGUEST
  EXIT "nested fault in a walk", 0x400
  mov rax, 0x200000006
  CHECK "walk: EXITINFO1", VM(EXITINFO1), rax
  CHECK "walk: EXITINFO2", VM(EXITINFO2), pd_low
  call nested_reset
  mov dword [ENTRY(pd_low)], pd_low + 5
  GUEST
  nop
  ENDGUEST
  EXIT "a walk counts as a write", 0x400
  mov rax, 0x200000007
  CHECK "walk of a read-only table: EXITINFO1", VM(EXITINFO1), rax
  ; a page fault of the guest's own
  call vmcb_reset
  call nested_reset
  bts dword VM(8), 14
  GUEST
  mov rbx, 0x8000000000
  mov [rbx], al
  ENDGUEST
  EXIT "#PF under nested paging", 0x4e
  ; ASIDs
  call vmcb_reset
  call nested_reset
  mov qword [page], 0x11
  mov qword [page2], 0x22
  GUEST
  mov rbx, [page]
  ENDGUEST
  mov dword [ENTRY(page)], page2 + 7
  mov byte VM(TLB_CONTROL), 0
  mov dword VM(ASID), 2
  GUEST
  mov rbx, [page]
  ENDGUEST
  CHECK "another ASID has no old translation", rbx, 0x22
  mov dword [ENTRY(page)], page + 7
  mov byte VM(TLB_CONTROL), 1
  GUEST
  mov rbx, [page]
  ENDGUEST
  CHECK "TLB_CONTROL 1", rbx, 0x11
  mov dword [ENTRY(page)], page2 + 7
  mov byte VM(TLB_CONTROL), 3
  GUEST
  mov rbx, [page]
  ENDGUEST
  CHECK "TLB_CONTROL 3", rbx, 0x22
  mov byte VM(TLB_CONTROL), 0
  ; PAT
  call vmcb_reset
  call nested_reset
  RDMSR 0x277
  mov [host_pat], rax
  mov rax, 0x0606060606060606
  mov VM(S_PAT), rax
  GUEST
  RDMSR 0x277
  mov rbx, rax
  WRMSR 0x277, 0x00070406, 0x00070400
  ENDGUEST
  mov rax, 0x0606060606060606
  CHECK "PAT of the guest", rbx, rax
  mov rax, 0x0007040600070400
  CHECK "PAT is saved", VM(S_PAT), rax
  RDMSR 0x277
  CHECK "PAT of the host", rax, [host_pat]
  ; real mode, whose addresses are the nested tables'
  call vmcb_reset
  call nested_reset
  mov qword VM(S_CR0), 0x10
  mov qword VM(S_CR4), 0
  mov qword VM(S_EFER), 0x1000
  mov word VM(S_CS), 0x1234
  mov word VM(S_CS + 2), 0x9b
  mov dword VM(S_CS + 4), 0xffff
  mov dword VM(S_CS + 8), page
%assign i 0
%rep 4
  %if i != 1
  mov word VM(0x402 + i * 16), 0x93
  mov dword VM(0x404 + i * 16), 0xffff
  %endif
  %assign i i + 1
%endrep
  mov dword [page], 0x6666c88c          ; mov ax, cs; (two operand-size prefixes)
  mov dword [page + 4], 0xd9010f90      ; nop; vmmcall
  xor eax, eax
  call run
  EXIT "real mode", 0x81
  movzx eax, word VM(S_RAX)
  CHECK "real mode: CS", rax, 0x1234
  CHECK "real mode: RIP", VM(S_RIP), 5
.no_npt:

  ; --- PAUSE filter (15.14.4) ---
  bt dword [svm_features], 10
  jnc .no_filter
  call vmcb_reset
  bts dword VM(I_MISC1), 23
  mov word VM(0x3e), 5
  xor ebx, ebx
  GUEST
.pauses:
  inc ebx
  pause
  cmp ebx, 100
  jb .pauses
  ENDGUEST
  EXIT "PAUSE filter", 0x77
  CHECK "its count", rbx, 6
.no_filter:
  TRY
  mov ecx, 0xc0000080
  rdmsr
  and eax, ~0x1000
  wrmsr
  ENDTRY
  NOFAULT "EFER.SVME cleared"
  ret
  align 8
svm_features: dq 0
host_rsp: dq 0
host_cr3: dq 0
host_pat: dq 0
guest_rsp: dq 0
has_nrip: dq 0
text_none: db "ok skipped: this processor has no SVM", 10, 0
