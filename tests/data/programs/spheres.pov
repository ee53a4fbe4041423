// Glass and mirrors, so that there is something to compute.
#version 3.7;
global_settings { assumed_gamma 1 max_trace_level 6 }
camera { location <0, 4, -12> look_at <0, 0, 0> }
light_source { <8, 12, -10> color rgb 1 }
plane { y, -2 pigment { checker color rgb 0.2 color rgb 0.9 } finish { reflection 0.2 } }
#declare Across = -3;
#while (Across <= 3)
  #declare Along = -3;
  #while (Along <= 3)
    sphere {
      <Across * 1.5, sin(Across + Along), Along * 1.5>, 0.7
      pigment { color rgbt <0.9, 0.5 + Across / 8, 0.5 + Along / 8, 0.5> }
      finish { reflection 0.4 specular 0.6 }
      interior { ior 1.5 }
    }
    #declare Along = Along + 1;
  #end
  #declare Across = Across + 1;
#end
