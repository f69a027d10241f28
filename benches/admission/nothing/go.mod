module nothing

go 1.26
