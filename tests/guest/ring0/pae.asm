; husk: PAE paging (SDM 3A 4.4)
%define PAE
%include "paging32.inc"
