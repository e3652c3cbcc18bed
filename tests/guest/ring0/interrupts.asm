; husk: external interrupts: PIC and PIT, LAPIC timer and self-IPI, STI and MOV SS shadow, HLT, NMI (SDM 3A 6, 10)
%include "frame64.inc"
%define APIC 0xfee00000
%macro APIC_WRITE 2
  mov ebx, APIC + (%1)
  mov dword [rbx], %2
%endmacro
%macro PIT_ONE_SHOT 1           ; mode 0, count
  mov al, 0x30
  out 0x43, al
  mov al, (%1) & 0xff
  out 0x40, al
  mov al, (%1) >> 8
  out 0x40, al
%endmacro
%macro EOI_PIC 0
  mov al, 0x20
  out 0x20, al
%endmacro
%macro EOI 0
  APIC_WRITE 0xb0, 0
%endmacro
%macro SETTLE 0                 ; the APIC may take its time
  mov ecx, 2000
%%wait:
  loop %%wait
%endmacro
main:
  ; --- PIC at 0x20 and 0x28, only IRQ 0 ---
  mov al, 0x11
  out 0x20, al
  out 0xa0, al
  mov al, 0x20
  out 0x21, al
  mov al, 0x28
  out 0xa1, al
  mov al, 4
  out 0x21, al
  mov al, 2
  out 0xa1, al
  mov al, 1
  out 0x21, al
  out 0xa1, al
  mov al, 0xfe
  out 0x21, al
  mov al, 0xff
  out 0xa1, al
  APIC_WRITE 0xf0, 0x1ff        ; LAPIC on
  APIC_WRITE 0x350, 0x700       ; LINT0: ExtINT
  PIT_ONE_SHOT 2000
  TRY
  sti
.wait1:
  hlt
  jmp .wait1
  ENDTRY
  FAULT "PIT through the PIC wakes HLT", 0x20, 0
  EOI_PIC
  mov rax, [got_flags]
  and eax, 0x200
  CHECK "IF in the frame", rax, 0x200
  PIT_ONE_SHOT 100
  mov al, 0x0a
  out 0x20, al
.poll:
  in al, 0x20
  test al, 1
  jz .poll
  TRY
  nop
  nop
  ENDTRY
  NOFAULT "pending, but IF is clear"
  TRY
  sti
  nop
.after_shadow:
  nop
  nop
  ENDTRY
  FAULT "taken after STI", 0x20, 0
  mov rax, .after_shadow
  CHECK "one instruction after STI runs", [got_rip], rax
  EOI_PIC
  mov al, 0xff
  out 0x21, al
  ; --- LAPIC self-IPI ---
  TRY
  APIC_WRITE 0x300, 0x44031     ; self, fixed, vector 0x31
  SETTLE
  sti
  SETTLE
  cli
  ENDTRY
  FAULT "self-IPI", 0x31, 0
  mov ebx, APIC + 0x110         ; ISR 32-63
  mov eax, [rbx]
  CHECK "its ISR bit", rax, 1 << 17
  TRY
  APIC_WRITE 0x300, 0x44032     ; the same class: held until EOI
  SETTLE
  sti
  SETTLE
  cli
  ENDTRY
  NOFAULT "same class waits for EOI"
  mov ebx, APIC + 0x210
  mov eax, [rbx]
  CHECK "its IRR bit", rax, 1 << 18
  TRY
  sti
  nop
  EOI
  SETTLE
  cli
  ENDTRY
  FAULT "EOI lets it in", 0x32, 0
  EOI
  TRY
  mov eax, 4
  mov cr8, rax
  APIC_WRITE 0x300, 0x44041
  SETTLE
  sti
  SETTLE
  cli
  ENDTRY
  NOFAULT "CR8 holds its class back"
  TRY
  sti
  xor eax, eax
  mov cr8, rax
  SETTLE
  cli
  ENDTRY
  FAULT "CR8 = 0 lets it in", 0x41, 0
  EOI
  TRY
  APIC_WRITE 0x300, 0x44042
  mov eax, SEL_DATA
  SETTLE
  sti
  mov ss, eax
  nop
  SETTLE
  cli
  ENDTRY
  FAULT "STI then MOV SS", 0x42, 0
  EOI
  ; --- LAPIC timer ---
  APIC_WRITE 0x3e0, 0xb         ; by 1
  TRY
  APIC_WRITE 0x320, 0x51
  APIC_WRITE 0x380, 10000
  sti
.wait2:
  hlt
  jmp .wait2
  ENDTRY
  FAULT "LAPIC timer, one shot", 0x51, 0
  EOI
  mov ebx, APIC + 0x390
  mov eax, [rbx]
  CHECK "its count ends at 0", rax, 0
  TRY
  APIC_WRITE 0x320, 0x20052     ; periodic
  APIC_WRITE 0x380, 100000
  sti
.wait3:
  hlt
  jmp .wait3
  ENDTRY
  FAULT "LAPIC timer, periodic 1", 0x52, 0
  EOI
  TRY
  sti
.wait4:
  hlt
  jmp .wait4
  ENDTRY
  FAULT "LAPIC timer, periodic 2", 0x52, 0
  EOI
  APIC_WRITE 0x380, 0
  APIC_WRITE 0x320, 0x10000
  ; --- NMI ---
  ; Through its own handler: the frame's resumes without IRET, which would leave NMIs blocked.
  SET_GATE 2, SEL_CODE64, on_nmi, 0x8e
  APIC_WRITE 0x300, 0x44400     ; NMI to self
  SETTLE
  CHECK "NMI by self-IPI, IF clear", [nmis], 2
  CHECK "the second waits for IRET", [nested], 0
  ret
on_nmi:
  push rax
  push rbx
  inc qword [depth]
  inc qword [nmis]
  cmp qword [nmis], 1
  jne .second
  APIC_WRITE 0x300, 0x44400
  push rcx
  SETTLE
  pop rcx
.second:
  cmp qword [depth], 1
  je .single
  inc qword [nested]
.single:
  dec qword [depth]
  pop rbx
  pop rax
  iretq
  align 8
nmis: dq 0
depth: dq 0
nested: dq 0
