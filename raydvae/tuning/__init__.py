"""The KLD targets of a purification, chosen against windows of PSNR; knows no Ray."""
