module gatewaystub

go 1.21
